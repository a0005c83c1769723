"""The phantoms: prevalences, dependence, the posterior against drawn labels, masks where findings are, the picture."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from data.phantoms import LABELS, PREVALENCE, SITES, draw_phantom, draw_severities, label_probs, posterior

MANY = 60_000


@pytest.fixture(scope="module")
def simulated() -> tuple[np.ndarray, np.ndarray]:
    """Severities and labels of many images, three a patient, without drawing a pixel."""
    rng = np.random.default_rng(1)
    severities = draw_severities(rng, np.arange(MANY) // 3)
    return severities, rng.random(severities.shape) < label_probs(severities)


def draw(severities: tuple[float, float, float], number: int = 0, size: int = 64, token: bool = False):
    return draw_phantom(np.random.default_rng([7, number]), np.random.default_rng([8, number]), np.array(severities),
                        size, SITES[0], token)


def test_prevalences_are_as_promised(simulated):
    _, labels = simulated
    assert np.abs(labels.mean(axis=0) - [0.46, 0.36, 0.23]).max() < 0.01
    assert PREVALENCE.tolist() == [0.46, 0.36, 0.23]


def test_findings_go_together(simulated):
    _, labels = simulated
    correlation = np.corrcoef(labels.T)
    assert (correlation[np.triu_indices(3, 1)] > 0.05).all()
    assert correlation[0, 1] > 0.2


def test_images_of_a_patient_are_alike(simulated):
    severities, _ = simulated
    first, second = severities[0::3], severities[1::3]
    for k in range(3):
        assert np.corrcoef(first[:, k], second[:, k])[0, 1] > 0.45


def test_the_posterior_is_calibrated_with_label_noise(simulated):
    severities, labels = simulated
    rng = np.random.default_rng(2)
    noisy = labels ^ (rng.random(labels.shape) < 0.05)
    probs = posterior(severities, np.zeros(len(severities), bool), label_noise=0.05)
    for k in range(3):
        for low in np.arange(0, 1, 0.1):
            inside = (probs[:, k] >= low) & (probs[:, k] < low + 0.1)
            if inside.sum() > 300:
                error = 4 * np.sqrt(0.25 / inside.sum())
                assert abs(noisy[inside, k].mean() - probs[inside, k].mean()) < error


def test_the_best_reachable_auc_leaves_room_below_one(simulated):
    severities, labels = simulated
    for k in range(3):
        assert 0.95 < roc_auc_score(labels[:, k], label_probs(severities)[:, k]) < 0.985


def test_a_black_image_has_the_prevalence_as_its_posterior():
    probs = posterior(np.array([[1.4, 1.4, 1.4]]), np.array([True]), label_noise=0.0)
    assert probs[0].tolist() == PREVALENCE.tolist()


@pytest.mark.parametrize("k", range(3))
def test_only_visible_findings_have_masks(k):
    severities = [0.0, 0.0, -0.6]
    assert draw(tuple(severities))[1] == {}
    severities[k] = 1.2
    _, masks = draw(tuple(severities))
    assert list(masks) == [LABELS[k]]
    assert 0.003 < masks[LABELS[k]].mean() < 0.3
    rows, columns = np.nonzero(masks[LABELS[k]])
    assert rows.min() > 8 and 6 < columns.mean() < 58  # below the neck, and in the chest


@pytest.mark.parametrize("k", range(2))
def test_the_mask_is_where_the_picture_changes_most(k):
    """The same chest with and without the finding, in a machine without noise."""
    plain, bright = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    bright[k] = 1.2
    for number in range(5):
        without, _ = draw(tuple(plain), number)
        with_finding, masks = draw(tuple(bright), number)
        change = np.abs(with_finding.astype(int) - without)
        assert change[masks[LABELS[k]]].mean() > 5 * change[~masks[LABELS[k]]].mean()


def test_a_worse_heart_is_a_wider_heart():
    widths = [draw((0.0, 0.0, severity))[1]["cardiomegaly"].any(axis=0).sum() for severity in (0.4, 0.8, 1.2)]
    assert widths[0] < widths[1] < widths[2]


def test_token_is_a_bright_mark_in_the_corner():
    without, with_token = draw((0, 0, 0))[0].astype(int), draw((0, 0, 0), token=True)[0].astype(int)
    changed = np.argwhere(with_token - without > 60)
    assert len(changed) > 3 and changed.max() < 14


def test_a_large_picture_shows_the_same_chest():
    import cv2

    small, large = draw((1.0, 0.0, 0.5))[0], draw((1.0, 0.0, 0.5), size=256)[0]
    shrunk = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.9
