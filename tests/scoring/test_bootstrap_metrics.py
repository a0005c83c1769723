"""Every metric under many weightings at once is scikit-learn's, row by row."""

import numpy as np
import pytest

from scoring.bootstrap_metrics import RANKED, make_scorer, make_tally
from scoring.metrics import METRICS, decide

KINDS = [(task, name) for task in ("binary", "multilabel", "multiclass") for name in METRICS
         if (task, name) != ("multilabel", "quadratic_kappa")]


def example(task: str, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets with NaN cells, one of four labels rare, and probabilities with ties, zeros and ones."""
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        targets = np.eye(4)[rng.choice(4, rows, p=[0.5, 0.3, 0.15, 0.05])]
        targets[rng.random(rows) < 0.1] = np.nan
        probs = rng.dirichlet(np.ones(4), rows)
        probs[0] = (0, 1, 0, 0)
        return targets, probs
    shape = rows, 1 if task == "binary" else 4
    targets = (rng.random(shape) < [0.3, 0.5, 0.3, 0.05][:shape[1]]).astype(float)
    targets[rng.random(shape) < 0.1] = np.nan
    return targets, np.round(rng.random(shape), 1)


@pytest.mark.parametrize(("task", "name"), KINDS)
@pytest.mark.parametrize("rows", [40, 5])
def test_a_metric_under_many_weightings_is_the_metric_under_each(task, name, rows):
    targets, probs = example(task, rows, seed=1)
    metric = METRICS[name]
    values = probs if metric.uses == "probs" else decide(probs, None if task == "multiclass" else 0.5, task)
    rng = np.random.default_rng(0)
    weights = np.concatenate((rng.integers(0, 4, (6, rows)), rng.random((4, rows)), rng.random((6, rows)) < 0.1))
    expected = [metric.score(targets, values, task, each) for each in weights.astype(float)]
    assert make_scorer(name, targets, values, task)(weights) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_every_metric_has_a_fast_way():
    targets, probs = example("binary", 20, seed=0)
    for name in METRICS:
        assert make_scorer(name, targets, np.round(probs), "binary")(np.ones((3, 20))).shape == (3,)


def test_a_metric_nobody_knows_and_one_for_another_task_are_refused():
    targets, probs = example("multilabel", 20, seed=0)
    with pytest.raises(ValueError, match="no_such"):
        make_scorer("no_such", targets, probs, "multilabel")
    with pytest.raises(ValueError, match="one grade a row"):
        make_scorer("quadratic_kappa", targets, probs > 0.5, "multilabel")
    for name in RANKED:
        with pytest.raises(ValueError, match="no metric of sums"):
            make_tally(name, targets, probs, "multilabel")
