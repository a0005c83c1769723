"""Images in a device's memory come as the loader's batches do; the device here is the processor."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from data.phantoms import SITES, draw_phantom
from data.pixel_store import PixelSettings, PixelStore, open_store
from training import device_input
from training.augmentation import AUGMENTATIONS, CHEST, STRONG, Strengths, Warp
from training.batches import training_batches
from training.device_input import DevicePixels, load_device_pixels, runs_on_device, warp_batch

WARPS = [name for name in AUGMENTATIONS if name.startswith("warp")]
STILL = Strengths(degrees=0, shear=0, scale=0, shift=0, blur=0, cutout=0, intensity=0, gain=0, offset=0, gamma=0)
ROWS = np.array([2, 3, 5, 7, 11, 13, 17, 19])
TARGETS = np.random.default_rng(0).random((8, 2), np.float32)


def phantom(number: int) -> np.ndarray:
    return draw_phantom(np.random.default_rng([1, number]), np.random.default_rng([2, number]), np.full(3, 0.5), 64,
                        SITES[0], token=False)[0]


@pytest.fixture(params=[1, 3], ids=["grey", "RGB"])
def store(request, home) -> PixelStore:
    """20 images of 64x64; in colour, the channels differ."""
    paths = [str(home / f"{number}.png") for number in range(20)]
    for number, path in enumerate(paths):
        grey = phantom(number)
        cv2.imwrite(path, grey if request.param == 1 else np.dstack([grey, 255 - grey, grey // 2]))
    return open_store("device", pd.DataFrame({"image_id": [f"p{i}" for i in range(20)], "path": paths}),
                      PixelSettings(64, request.param))


def both_ways(store: PixelStore, augmentation: str, expected: np.ndarray | None = None) -> list[tuple]:
    """Pairs of batches: from the store, and from the device's memory."""
    ways = [list(training_batches(store, ROWS, TARGETS, 3, augmentation, 5, 2, expected=expected, pixels=pixels))
            for pixels in (None, DevicePixels(store, ROWS, "cpu"))]
    return list(zip(*ways, strict=True))


@pytest.mark.parametrize("expected", [None, np.array([3, 0, 1, 0.5, 2, 1, 0.5, 1])], ids=["once", "sampled"])
def test_batches_that_are_not_augmented_are_the_loaders(store, expected, monkeypatch):
    monkeypatch.setattr(device_input, "CHUNK", 3)  # carried over in several pieces
    pairs = both_ways(store, "none", expected)
    assert len(pairs) == 3
    for loaders, devices in pairs:
        for one, other in zip(loaders, devices, strict=True):
            assert one.dtype == other.dtype and one.is_contiguous() and other.is_contiguous()
            assert torch.equal(one, other)


@pytest.mark.parametrize("augmentation", WARPS)
def test_warped_batches_are_the_loaders_up_to_rounding(store, augmentation):
    """Also where an epoch shows an image twice, which changes it in two ways."""
    for (images, *others), (devices, *same) in both_ways(store, augmentation, np.full(8, 2.0)):
        assert devices.shape == images.shape and devices.dtype == torch.uint8
        assert all(torch.equal(one, other) for one, other in zip(others, same, strict=True))
        away = (devices.int() - images.int()).abs()
        assert away.float().mean() < 0.5 and (away > 2).float().mean() < 0.02


@pytest.mark.parametrize("strengths", [CHEST, STRONG], ids=["chest", "strong"])
@pytest.mark.parametrize("size", [64, 97])
def test_all_of_the_warp_is_applied_image_by_image(size, strengths):
    """Everything drawn for every image, on sizes even and odd; only rounding is left to differ."""
    warp = Warp(size, replace(strengths, flip=0.5, blur=0.5, cutout=0.7))
    images = np.stack([cv2.resize(phantom(number), (size, size)) for number in range(24)])
    changed = warp_batch(torch.from_numpy(images)[:, None], warp, range(24))[:, 0].numpy()
    expected = np.stack([warp(image, seed) for seed, image in enumerate(images)])
    assert np.abs(changed.astype(int) - expected).mean(axis=(1, 2)).max() < 1
    assert ((changed == 0) == (expected == 0)).mean() > 0.999  # the squares


def test_a_shift_by_whole_pixels_mirrors_about_the_edge_pixel():
    row = torch.arange(10, 60, 10, dtype=torch.uint8)[None, None, None]  # 10 20 30 40 50
    matrix = np.array([[1.0, 0, 2], [0, 1, 0]])
    moved = device_input._resample(row, [device_input.Change(matrix, False, None, None)])
    assert moved.flatten().tolist() == [30, 20, 10, 20, 30]


@pytest.mark.parametrize("kernel", [3, 7])
def test_the_median_is_opencvs(kernel):
    images = np.random.default_rng(0).integers(0, 256, (2, 30, 20, 3), np.uint8)
    medians = device_input._median(torch.from_numpy(images).permute(0, 3, 1, 2), kernel).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(medians, [cv2.medianBlur(image, kernel) for image in images])


def test_no_image_in_the_devices_memory_is_written_to(store):
    pixels = DevicePixels(store, ROWS, "cpu")
    before = pixels.images.clone()
    for _ in training_batches(store, ROWS, TARGETS, 8, "warp_strong", 0, 0, pixels=pixels):
        pass
    assert torch.equal(pixels.images, before)


def test_images_of_other_rows_are_refused(store):
    with pytest.raises(ValueError, match="not those of the rows"):
        training_batches(store, ROWS, TARGETS, 3, "none", 0, 0, pixels=DevicePixels(store, ROWS[::-1], "cpu"))


def test_only_none_and_the_warps_run_on_a_device():
    assert {name for name in AUGMENTATIONS if runs_on_device(name, 64)} == {"none", "rotate7_crop", *WARPS}


def test_images_go_to_a_gpu_that_has_room_for_them_twice(monkeypatch):
    """With a stand-in for the card's memory: eight images of 64x64 take 32,768 bytes."""
    free = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 2**40))
    monkeypatch.setattr(device_input, "DevicePixels", lambda store, rows, device: (len(rows), device))
    store = SimpleNamespace(pixels=np.zeros((20, 64, 64), np.uint8), settings=PixelSettings(64, 1))
    for room, augmentation, device, loaded in ((65_536, "none", "cuda", True), (65_535, "none", "cuda", False),
                                               (65_536, "warp", "cuda:1", True), (2**40, "solt", "cuda", False),
                                               (2**40, "warp", "cpu", False)):
        free[:] = [room]
        assert load_device_pixels(store, ROWS, augmentation, device) == ((8, device) if loaded else None)
