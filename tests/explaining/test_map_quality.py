"""What maps are measured by: against networks whose answer is known, by hand, and where nothing is to be measured."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import bootstrap
from torch import nn

from common.hardware import import_torchvision
from explaining.attribution import MIN_LOG_ODDS
from explaining.map_quality import (
    STEPS,
    curves,
    mean_interval,
    random_heat,
    randomise_weights,
    rank_correlation,
    share_inside,
    summarise,
)
from explaining.methods import explain_images
from models.classifier import Classifier, build_model

SIZE = 32


class Brightness(nn.Module):
    """A logit that grows with the brightness of one square; without weights that could be drawn anew."""

    def forward(self, images):
        return images[:, :, 8:16, 8:16].mean(dim=(1, 2, 3))[:, None] * 4 - 4


def brightness() -> Classifier:
    return Classifier(Brightness(), 1, (0.5,), (0.25,), {})


def square_image() -> torch.Tensor:
    image = torch.full((1, 1, SIZE, SIZE), 60, dtype=torch.uint8)
    image[:, :, 8:16, 8:16] = 255
    return image


def some_images() -> torch.Tensor:
    return torch.randint(0, 256, (8, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def heat_in(rows: slice, columns: slice) -> np.ndarray:
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[rows, columns] = 1
    return heat


def test_a_map_of_what_decides_has_low_deletion_and_high_insertion():
    right = curves(brightness(), square_image(), 0, "multilabel", heat_in(slice(8, 16), slice(8, 16)))
    wrong = curves(brightness(), square_image(), 0, "multilabel", heat_in(slice(24, 32), slice(24, 32)))
    assert right[0].mean() < wrong[0].mean() - 0.3
    assert right[1].mean() > wrong[1].mean() + 0.3


def test_curves_begin_and_end_with_the_whole_and_the_blurred_image():
    model, image = brightness(), square_image()
    deletion, insertion = curves(model, image, 0, "multilabel", random_heat(SIZE, 0))
    blurred = cv2.GaussianBlur(image[0, 0].numpy().astype(np.float32), (0, 0), SIZE / 8,
                               borderType=cv2.BORDER_REPLICATE)
    whole, gone = (model(torch.as_tensor(each).reshape(1, 1, SIZE, SIZE)).sigmoid().item()
                   for each in (image[0, 0], blurred))
    assert deletion.shape == insertion.shape == (STEPS + 1,)
    assert deletion[[0, -1]] == pytest.approx([whole, gone], abs=1e-5)
    assert insertion[[0, -1]] == pytest.approx([gone, whole], abs=1e-5)


def test_equal_heat_is_not_taken_from_the_top_left():
    """An empty map is as good as chance: half-way about half of the square is gone, not all of it or nothing."""
    deletion, _ = curves(brightness(), square_image(), 0, "multilabel", np.zeros((SIZE, SIZE), np.float32))
    by_hand = curves(brightness(), square_image(), 0, "multilabel",
                     np.random.default_rng(5).random((SIZE, SIZE)).astype(np.float32))[0]
    np.testing.assert_allclose(deletion, by_hand, atol=0.1)


def test_share_inside():
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:16] = True
    assert share_inside(np.ones((SIZE, SIZE)), mask) == 0.5
    assert share_inside(heat_in(slice(12, 20), slice(0, 8)), mask) == 0.5
    assert share_inside(np.zeros((SIZE, SIZE)), mask) == 0


def test_random_weights_change_only_the_copy():
    torch.manual_seed(0)
    model = build_model("cnn_b", 1, SIZE, 2).eval()
    nn.init.normal_([module for module in model.modules() if isinstance(module, nn.Linear)][-1].weight, std=1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = randomise_weights(model, some_images())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for layer, other in zip(model.modules(), drawn.modules(), strict=True):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            assert not torch.equal(layer.weight, other.weight)
    assert torch.equal(drawn.mean, model.mean)  # the normalisation is not learned
    images = torch.randint(0, 256, (1, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    heats = [explain_images("occlusion", each, images, 0, "multilabel").heat[0].numpy() for each in (model, drawn)]
    assert abs(rank_correlation(*heats)) < 0.6 < rank_correlation(heats[0], heats[0])


@pytest.mark.parametrize("network", ["tf_efficientnet_lite0", "cnn_e", "lstm"])
def test_random_deep_networks_still_separate_images(network):
    """As torch draws them its signal dies on the way: all its maps would be empty, and nothing could be compared."""
    import_torchvision()
    torch.manual_seed(0)
    size = 64
    images = torch.randint(0, 256, (8, 1, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    drawn = randomise_weights(build_model(network, 1, size, 2), images)
    with torch.no_grad():
        assert drawn(images).std(dim=0).min() > 10 * MIN_LOG_ODDS
    assert not drawn.training and not any(module.training for module in drawn.modules())


def test_rank_correlation_of_an_empty_map_is_undefined():
    assert np.isnan(rank_correlation(np.zeros((4, 4)), np.arange(16.0).reshape(4, 4)))
    assert rank_correlation(np.arange(16.0).reshape(4, 4) ** 3, np.arange(16.0).reshape(4, 4)) == pytest.approx(1)


def test_chance_depends_on_the_seed_only():
    np.testing.assert_array_equal(random_heat(64, 1), random_heat(64, 1))
    assert not np.array_equal(random_heat(64, 1), random_heat(64, 2))
    assert 0 <= random_heat(64, 1).min() and random_heat(64, 1).max() <= 1


def test_the_interval_is_scipys_bootstrap():
    values = np.random.default_rng(1).exponential(size=40)
    mean, low, high = mean_interval(np.append(values, np.nan))
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=0).confidence_interval
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert np.isnan(mean_interval(np.full(3, np.nan))).all()


def test_the_summary_skips_undefined_values():
    measured = pd.DataFrame({
        "image_id": ["a", "b"] * 2, "label": "x", "method": ["gradcam"] * 2 + ["chance"] * 2,
        "empty": [True, False, False, False], "inside": [0, 1, np.nan, np.nan], "share_inside": np.nan, "area": np.nan,
        "deletion": [0.2, 0.4, 0.5, 0.5], "insertion": 0.5, "randomised": np.nan})
    summary = summarise(measured).set_index("method")
    assert summary.loc["gradcam", ["images", "empty", "inside"]].tolist() == [2, 1, 0.5]
    assert summary.loc["gradcam", "deletion"] == pytest.approx(0.3)
    assert np.isnan(summary.loc["chance", "inside"])
