"""Views for test-time augmentation against numpy, and against ramps and constants whose view is known."""

import numpy as np
import pytest
import torch

from training.tta import VIEWS, zoom_in, zoom_out

DTYPES = [torch.uint8, torch.float32, torch.float64, torch.bfloat16]


def random_images(channels: int = 1, side: int = 64, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.randint(0, 256, (3, channels, side, side), generator=torch.Generator().manual_seed(0)).to(dtype)


def ramp(side: int, axis: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """An image whose grey value is the pixel's row (axis 2) or column (axis 3)."""
    values = torch.arange(side, dtype=dtype)
    return (values[:, None] if axis == 2 else values[None, :]).expand(1, 1, side, side)


# ---- every view


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_keeps_shape_and_type(name, dtype):
    for channels, side in [(1, 64), (3, 96), (1, 21)]:
        images = random_images(channels, side, dtype)
        seen = VIEWS[name](images)
        assert seen.shape == images.shape and seen.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0, 1, 131, 255])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_a_constant_image_is_that_constant(name, value, dtype):
    images = torch.full((1, 3, 64, 64), value, dtype=dtype)
    torch.testing.assert_close(VIEWS[name](images), images, atol=1e-4 if dtype.is_floating_point else 0, rtol=0)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_stays_within_the_images_grey_values(name):
    images = random_images() // 2 + 50
    seen = VIEWS[name](images)
    assert images.min() <= seen.min() and seen.max() <= images.max()


@pytest.mark.parametrize("name", VIEWS)
def test_images_and_channels_are_seen_one_by_one(name):
    images = random_images(3)
    alone = torch.cat([torch.cat([VIEWS[name](channel[None, None]) for channel in image], dim=1) for image in images])
    assert torch.equal(VIEWS[name](images), alone)


@pytest.mark.parametrize("name", VIEWS)
def test_whole_grey_values_are_seen_alike_as_numbers_of_either_kind(name):
    images = random_images()
    difference = VIEWS[name](images).float() - VIEWS[name](images.float())
    assert difference.abs().max() <= 0.5 + 1e-4  # rounded, not cut off


# ---- turns


def test_identity_changes_nothing():
    images = random_images()
    assert torch.equal(VIEWS["identity"](images), images)


def test_flips_and_turns_are_numpys():
    images = random_images(3)
    grid = images.numpy()
    np.testing.assert_array_equal(VIEWS["hflip"](images), grid[:, :, :, ::-1])
    np.testing.assert_array_equal(VIEWS["vflip"](images), grid[:, :, ::-1, :])
    np.testing.assert_array_equal(VIEWS["rotate90"](images), np.rot90(grid, axes=(2, 3)))


def test_a_corner_goes_where_the_views_name_says():
    images = torch.zeros(1, 1, 8, 8)
    images[0, 0, 0, 7] = 1  # top right
    corners = {"hflip": (0, 0), "vflip": (7, 7), "rotate90": (0, 0)}  # rotate90 is a quarter turn to the left
    for name, corner in corners.items():
        assert [tuple(at) for at in VIEWS[name](images)[0, 0].nonzero().tolist()] == [corner]


@pytest.mark.parametrize("view, times", [(VIEWS["hflip"], 2), (VIEWS["vflip"], 2), (VIEWS["rotate90"], 4)])
def test_a_view_repeated_comes_back_to_the_image_and_not_before(view, times):
    images = random_images(3)
    seen = [images]
    for _ in range(times):
        seen.append(view(seen[-1]))
    assert [torch.equal(each, images) for each in seen] == [True, *[False] * (times - 1), True]


def test_two_flips_are_half_a_turn():
    images = random_images()
    assert torch.equal(VIEWS["hflip"](VIEWS["vflip"](images)), VIEWS["rotate90"](VIEWS["rotate90"](images)))


# ---- zooms


@pytest.mark.parametrize("axis", [2, 3])
def test_zoom_in_shows_the_central_nine_tenths(axis):
    """Pixel x of 100 shows the place 5 + 0.9 (x + 1/2) - 1/2; half a pixel from the edge nothing lies beyond."""
    places = 5 + 0.9 * (torch.arange(100) + 0.5) - 0.5
    seen = zoom_in(ramp(100, axis))[0, 0]
    torch.testing.assert_close(seen, ramp_of(places.clamp(5, 94), axis))


@pytest.mark.parametrize("axis", [2, 3])
def test_zoom_out_shows_the_image_at_nine_tenths(axis):
    """Pixel x of 100 shows the place (x - 5 + 1/2) / 0.9 - 1/2."""
    places = (torch.arange(100) - 5 + 0.5) / 0.9 - 0.5
    seen = zoom_out(ramp(100, axis))[0, 0]
    line = seen[:, 50] if axis == 2 else seen[50]
    torch.testing.assert_close(line[6:-6], places[6:-6], atol=0.1, rtol=0)  # the filter's weights are not quite even
    assert (line[:5] == line[5]).all() and (line[-5:] == line[-6]).all()
    assert 0 <= line[5] < 0.5 and 98.5 < line[-6] <= 99


def ramp_of(places: torch.Tensor, axis: int) -> torch.Tensor:
    return (places[:, None] if axis == 2 else places[None, :]).expand(100, 100)


@pytest.mark.parametrize("view", [zoom_in, zoom_out])
@pytest.mark.parametrize("side", [64, 65, 96, 224])
def test_zooms_keep_the_centre_where_it_is(view, side):
    for axis in (2, 3):
        seen = view(ramp(side, axis))
        assert seen.mean().item() == pytest.approx((side - 1) / 2, abs=1e-2)
        torch.testing.assert_close(seen + seen.flip(axis), torch.full_like(seen, side - 1), atol=1e-3, rtol=0)


def test_zoom_in_enlarges_and_zoom_out_shrinks_a_disc():
    y, x = torch.meshgrid(*[torch.arange(64) - 31.5] * 2, indexing="ij")
    disc = ((x**2 + y**2 < 20**2) * 255).to(torch.uint8)[None, None]
    area = disc.float().sum()
    share = 58 / 64  # 3 pixels on each side are left out, or put around
    assert (zoom_in(disc).float().sum() / area).item() == pytest.approx(1 / share**2, rel=0.02)
    assert (zoom_out(disc).float().sum() / area).item() == pytest.approx(share**2, rel=0.02)


def test_zoom_out_averages_what_it_shrinks():
    """Columns of black and white in turn: without a filter more of them would be left, as a slow pattern."""
    stripes = (torch.arange(64) % 2 * 255.0).expand(1, 1, 64, 64)
    plain = torch.nn.functional.interpolate(stripes, (58, 58), mode="bilinear")
    assert zoom_out(stripes)[..., 8:-8].std() < 0.85 * plain[..., 5:-5].std()  # the same place: 3 pixels are put around
