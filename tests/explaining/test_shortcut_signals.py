"""Signals of a shortcut: networks that look at one place only, scikit-learn's AUC, and what can be counted by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from explaining.methods import explain_images
from explaining.shortcut_signals import (
    CORNERS,
    FRAME,
    THRESHOLDS,
    ZONES,
    Evidence,
    attribution_evidence,
    column_evidence,
    fill_in,
    keep_only,
    log_odds,
    mark_alarms,
    stratified_auc,
    strongest_signals,
    variant_log_odds,
    zone_evidence,
    zone_excess,
    zone_masks,
)
from models.classifier import Classifier

SIZE, N = 40, 120


class Looks(nn.Module):
    """Two logits, both the brightness of one square."""

    def __init__(self, rows: slice, columns: slice):
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, images):
        seen = images[:, :, self.rows, self.columns].mean(dim=(1, 2, 3))
        return torch.stack([seen, seen], dim=1) * 2


def looks_at(rows: slice, columns: slice) -> Classifier:
    return Classifier(Looks(rows, columns), 1, (0.5,), (0.25,), cam_layers={})


def pictures() -> tuple[torch.Tensor, np.ndarray]:
    """(N, 1, S, S) noise with a letter in the upper left and a finding in the middle where the label is; (N, 1)."""
    rng = np.random.default_rng(0)
    images, targets = rng.integers(60, 120, (N, 1, SIZE, SIZE), dtype=np.uint8), np.arange(N) % 2
    images[targets == 1, :, 2:5, 2:5] = 255
    images[targets == 1, :, 16:24, 16:24] = 200
    return torch.from_numpy(images), targets[:, None].astype(float)


def judged(model: nn.Module) -> dict[tuple[str, str], Evidence]:
    images, targets = pictures()
    average = images.double().mean(dim=0).float()
    answers = variant_log_odds(model, images, average, "multilabel")
    return {each[1:3]: each for each in zone_evidence(("a",), targets, answers, np.arange(N) // 60, np.arange(N))}


# ---- zones


def test_zones_cover_the_border_without_overlap():
    masks = zone_masks(SIZE)
    assert tuple(masks) == ZONES
    together = np.sum(list(masks.values()), axis=0)
    assert together.max() == 1 and together[3:-3, 8:-8].max() == 0 and together[[0, -1]].all() and together[:, 0].all()
    assert [masks[name].sum() for name in CORNERS] == [64] * 4
    assert masks["upper right"][0, -1] and masks["lower left"][-1, 0]


def test_even_heat_lies_in_a_zone_as_its_area_says():
    np.testing.assert_allclose(zone_excess(np.ones((SIZE, SIZE))), 1)
    corner = zone_masks(SIZE)["upper left"].astype(float)
    np.testing.assert_allclose(zone_excess(corner), [SIZE**2 / 64, 0, 0, 0, 0])
    assert np.isnan(zone_excess(np.zeros((SIZE, SIZE)))).all()


def test_inpainting_removes_the_letter_and_changes_only_the_zone():
    image, mask = np.full((1, SIZE, SIZE), 90, np.uint8), zone_masks(SIZE)["upper left"]
    letter = image.copy()
    letter[0, 2:5, 2:5] = 255
    np.testing.assert_array_equal(fill_in(letter, mask), fill_in(image, mask))
    np.testing.assert_allclose(fill_in(letter, mask), image, atol=4)  # so well does OpenCV round
    noise = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    for zone in zone_masks(SIZE).values():
        np.testing.assert_array_equal(fill_in(noise, zone)[:, ~zone], noise[:, ~zone])


def test_outside_the_mask_all_images_are_equal():
    images, _ = pictures()
    mask = zone_masks(SIZE)["lower right"]
    kept = keep_only(images[:2], mask, images.double().mean(dim=0).float())
    assert torch.equal(kept[:, 0, mask], images[:2, 0, mask].float())
    assert torch.equal(kept[0, 0, ~mask], kept[1, 0, ~mask])


# ---- networks that look at one place


def test_a_corner_reader_raises_an_alarm_in_that_corner_only():
    evidence = judged(looks_at(slice(2, 5), slice(2, 5)))
    assert evidence["alone", "upper left"].value == evidence["alone", FRAME].value == 1
    assert evidence["filled in", "upper left"].value == pytest.approx(0.5, abs=0.1)
    for zone in ZONES[1:]:
        assert evidence["alone", zone].value == 0.5
        assert evidence["filled in", zone][3:6] == (0, 0, 0)
    alarms = strongest_signals(mark_alarms(list(evidence.values()))).set_index("signal")
    assert alarms["alarm"].to_dict() == {"alone": True, "filled in": True}
    assert set(alarms["where"]) == {"upper left"}


def test_a_network_reading_the_middle_raises_no_alarm():
    evidence = judged(looks_at(slice(16, 24), slice(16, 24)))
    assert {each.value for (signal, _), each in evidence.items() if signal == "alone"} == {0.5}
    assert {each.value for (signal, _), each in evidence.items() if signal == "filled in"} == {0}
    assert not strongest_signals(mark_alarms(list(evidence.values())))["alarm"].any()


@pytest.mark.parametrize(("place", "alarm"), [(slice(0, 8), True), (slice(16, 24), False)])
def test_only_heat_in_a_corner_raises_an_alarm(place, alarm):
    images, _ = pictures()
    heat = explain_images("occlusion", looks_at(place, place), images[1:32:2], 0, "multilabel").heat.numpy()
    found = strongest_signals(mark_alarms(attribution_evidence("a", np.stack([zone_excess(each) for each in heat]))))
    assert found["alarm"].tolist() == [alarm]
    assert not alarm or found["where"].tolist() == ["upper left"]


def test_colour_images_and_all_variants_come_through():
    class Mean(nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))

    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    model = Classifier(Mean(), 3, (0.5,) * 3, (0.25,) * 3, cam_layers={})
    answers = variant_log_odds(model, images, images.float().mean(dim=0), "multiclass")
    assert len(answers) == 1 + len(ZONES) + 1 + len(ZONES) and next(iter(answers)) == "whole"
    assert {values.shape for values in answers.values()} == {(2, 3)}


def test_log_odds_of_classes_are_those_of_softmax():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
    probs = logits.softmax(dim=1)
    torch.testing.assert_close(log_odds(logits, "multiclass"), (probs / (1 - probs)).log())
    assert torch.equal(log_odds(logits, "multilabel"), logits)


# ---- the AUC of pairs within strata


def test_in_one_stratum_it_is_scikit_learns_auc_with_delongs_error():
    rng = np.random.default_rng(2)
    has, scores = rng.random(200) < 0.3, rng.integers(0, 20, (200, 2)).astype(float)
    aucs, covariance = stratified_auc(has, scores, np.zeros(200), np.arange(200))
    assert aucs == pytest.approx([roc_auc_score(has, scores[:, c]) for c in (0, 1)])
    won = (scores[has, None] > scores[~has]) + 0.5 * (scores[has, None] == scores[~has])  # (positives, negatives, 2)
    delong = sum(np.cov(won.mean(axis=axis).T) / won.shape[1 - axis] for axis in (0, 1))
    np.testing.assert_allclose(covariance, delong, rtol=0.02, atol=1e-6)  # they differ by factors for few rows


def test_pairs_across_strata_do_not_count():
    has, scores = np.array([1, 0, 1, 0, 0]) == 1, np.array([1.0, 0, 101, 100, 102])[:, None]
    aucs, _ = stratified_auc(has, scores, np.array([0, 0, 1, 1, 1]), np.arange(5))
    assert aucs[0] == pytest.approx((1 + 1) / 3)


def test_the_error_of_grouped_rows_is_that_of_drawing_whole_groups():
    rng = np.random.default_rng(3)
    groups, strata = np.repeat(np.arange(150), 2), np.repeat(np.arange(150) % 2, 2)
    has = (rng.random(150) < 0.4)[groups]
    scores = (has + rng.normal(0, 1, 150)[groups] + rng.normal(0, 0.3, 300))[:, None]
    auc, covariance = stratified_auc(has, scores, strata, groups)
    draws = []
    for _ in range(400):
        rows = (2 * rng.integers(0, 150, 150)[:, None] + np.array([0, 1])).ravel()
        draws.append(stratified_auc(has[rows], scores[rows], strata[rows], groups[rows])[0][0])
    assert np.sqrt(covariance[0, 0]) == pytest.approx(np.std(draws), rel=0.15)
    once = stratified_auc(has[::2], scores[::2], strata[::2], groups[::2])[1]
    assert covariance[0, 0] > 0.8 * once[0, 0]  # twins are hardly more evidence than one of them


# ---- subgroups


def of_site(scores: np.ndarray, has: np.ndarray, site: np.ndarray) -> dict[str, Evidence]:
    found = column_evidence(("a",), has[:, None].astype(float), scores[:, None], np.arange(len(has)) % 2,
                            np.arange(len(has)), "site", site)
    return {each.signal: each for each in found}


def test_only_scores_that_follow_a_site_raise_an_alarm():
    rng = np.random.default_rng(4)
    has, site = rng.random(400) < 0.5, np.where(rng.random(400) < 0.5, "north", "south")
    noise = rng.normal(0, 0.1, 400)
    by_site = of_site(np.clip(0.3 + 0.4 * (site == "south") + noise, 0, 1), has, site)
    by_label = of_site(np.clip(0.3 + 0.4 * has + noise, 0, 1), has, site)
    assert strongest_signals(mark_alarms(list(by_site.values())))["alarm"].tolist() == [True]
    assert strongest_signals(mark_alarms(list(by_label.values())))["alarm"].tolist() == [False]
    assert by_site["follows"].where == "higher for site south"  # which is to say, lower for north
    assert by_site["follows"].value > 0.45 and by_label["follows"].value < 0.1
    # the gaps are those of the means and of scikit-learn's AUC
    scores = np.clip(0.3 + 0.4 * (site == "south") + noise, 0, 1)
    gaps = [(scores - has)[site == name].mean() for name in ("north", "south")]
    assert by_site["calibration gap"].value == pytest.approx(abs(gaps[0] - gaps[1]))
    assert by_site["calibration gap"].where == "site: south above north"
    assert by_label["AUC gap"].value < 0.05


def test_values_with_few_images_and_empty_cells_say_nothing():
    has, site = np.arange(100) % 2 == 1, np.array(["north"] * 60 + ["south"] * 5 + [""] * 35)
    assert all(np.isnan(each.value) for each in of_site(np.linspace(0, 1, 100), has, site).values())


# ---- the alarm


@pytest.mark.parametrize("targets", [np.ones(N), np.full(N, np.nan), np.r_[np.ones(3), np.zeros(N - 3)]])
def test_signals_of_rare_labels_are_undefined(targets):
    images, _ = pictures()
    answers = variant_log_odds(looks_at(slice(2, 5), slice(2, 5)), images, images.float().mean(dim=0), "multilabel")
    evidence = zone_evidence(("a",), targets[:, None], answers, np.zeros(N, int), np.arange(N))
    assert len(evidence) == len(answers) - 1 and all(np.isnan(each.value) for each in evidence)
    assert not strongest_signals(mark_alarms(evidence))["alarm"].any()
    assert np.isnan(attribution_evidence("a", np.full((5, 5), 9.0))[0].value)  # five images


def test_the_alarm_is_of_the_zone_that_is_surest():
    rows = [Evidence("a", "alone", "border", 0.9, 0.4, 1.0, 9), Evidence("a", "alone", "lower left", 0.8, 0.7, 0.9, 9),
            Evidence("b", "alone", "border", np.nan, np.nan, np.nan, 9), Evidence("a", "AUC gap", "x", 1, 1, 1, 9)]
    alarms = strongest_signals(mark_alarms(rows))
    assert alarms["label"].tolist() == ["a", "b"] and alarms["where"].tolist() == ["lower left", "border"]
    assert alarms["alarm"].tolist() == [True, False] and alarms["threshold"].tolist() == [THRESHOLDS["alone"]] * 2


def test_gaps_between_many_values_that_do_not_differ_are_within_noise():
    rng, beyond = np.random.default_rng(6), []
    for _ in range(40):
        has, value = rng.random(400) < 0.5, rng.integers(8, size=400).astype(str)
        found = of_site(np.clip(0.3 + 0.4 * has + rng.normal(0, 0.3, 400), 0, 1), has, value)
        beyond += [found["AUC gap"].low > 0, found["calibration gap"].low > 0]
    assert np.mean(beyond) < 0.2  # as if the largest of 28 gaps were the only one looked at, it would be half
