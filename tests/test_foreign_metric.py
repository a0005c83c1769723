"""A metric from elsewhere is one entry of METRICS: everything that scores, decides, blends or compares takes it."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as sk
from scipy.special import expit

import blend
import decide
import leaderboard
from competition import Competition, Part
from scoring import label_shift
from scoring.blending import METHODS, crossfit_blend, fit_blend
from scoring.confidence_intervals import bootstrap_counts, bootstrap_scores, score_interval
from scoring.counts import count_labels, divide, label_counts, mean_of_defined
from scoring.decision_rules import RULES, FittedRule, RuleEntry, fit_class_weights, rules_for
from scoring.metrics import METRICS, Metric
from scoring.metrics import decide as make_decisions
from scoring.model_comparison import compare
from scoring.score_forecast import forecast
from scoring.thresholds import fit_thresholds
from two_runs import fabricate_two_runs


def matthews_of(sums: np.ndarray) -> np.ndarray:
    """(R,) the mean over labels of Matthews' correlation, from sums of label_counts; 0 where nothing is decided."""
    hits, alarms, misses, passes = np.split(sums, 4, axis=1)
    defined = (hits + misses > 0) & (alarms + passes > 0)
    below = np.sqrt((hits + alarms) * (hits + misses) * (passes + alarms) * (passes + misses))
    return mean_of_defined(np.where(defined, divide(hits * passes - alarms * misses, below, otherwise=0.0), np.nan))


def plain_matthews(targets, decisions, task, weights=None):
    """The same without telling anybody what it counts."""
    weights = np.ones(len(targets)) if weights is None else weights
    return float(matthews_of(weights[None] @ label_counts(targets, decisions))[0])


def concordance(targets, probs, task, weights=None):
    """The share of (positive, negative) pairs of each label in the right order: ROC AUC, computed pair by pair."""
    weights = np.ones(len(targets)) if weights is None else weights
    scores = []
    for column, column_probs in zip(targets.T, probs.T, strict=True):
        positive, negative = column == 1, column == 0
        pairs = weights[positive, None] * weights[negative]
        won = np.sign(column_probs[positive, None] - column_probs[negative]) / 2 + 0.5
        if pairs.sum():
            scores.append((pairs * won).sum() / pairs.sum())
    return np.mean(scores) if scores else np.nan


MATTHEWS = Metric(name="matthews", title="Matthews correlation", uses="decisions", greater_is_better=True,
                  counts=count_labels(matthews_of), bounded=False)
PLAIN = replace(MATTHEWS, name="plain_matthews", counts=None, function=plain_matthews)
CONCORDANCE = Metric(name="concordance", title="concordance", uses="probs", greater_is_better=True,
                     function=concordance, order_only=True)
ABSOLUTE = Metric(name="absolute", title="absolute error", uses="probs", greater_is_better=False,
                  function=lambda targets, probs, task, weights=None: float(np.average(
                      np.nanmean(np.abs(targets - probs), axis=1), weights=weights)))
FOREIGN = {metric.name: metric for metric in (MATTHEWS, PLAIN, CONCORDANCE, ABSOLUTE)}
TASKS = ("binary", "multilabel", "multiclass")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for name, metric in FOREIGN.items():
        monkeypatch.setitem(METRICS, name, metric)


def example(task: str, rows: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Targets, three models' probabilities of falling skill, groups and folds."""
    rng, count = np.random.default_rng(0), {"binary": 1, "multilabel": 2, "multiclass": 3}[task]
    targets = (rng.random((rows, count)) < 0.35).astype(float)
    if task == "multiclass":
        targets = np.eye(3)[rng.integers(3, size=rows)]
    members = np.stack([expit(skill * (targets - 0.6) + rng.normal(size=targets.shape)) for skill in (2.5, 1, 0)])
    if task == "multiclass":
        members /= members.sum(axis=2, keepdims=True)
    groups = np.arange(rows) // 2
    return targets, members, groups, groups % 3


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", FOREIGN)
def test_replicates_intervals_comparison_and_forecast(name, task):
    targets, (good, bad, _), groups, _ = example(task)
    metric = METRICS[name]
    values = [probs if metric.uses == "probs" else make_decisions(probs, None if task == "multiclass" else 0.5, task)
              for probs in (good, bad)]
    drawn = bootstrap_scores(name, targets, values[0], task, groups, 12)
    expected = [metric.score(targets, values[0], task, weights) for weights in bootstrap_counts(groups, 12)]
    assert drawn == pytest.approx(expected, abs=1e-12)
    low, high = score_interval(name, targets, values[0], task, groups, 40)
    assert low < metric.score(targets, values[0], task) < high
    comparison = compare(name, targets, *values, task, groups, 40)
    assert comparison.winner in (0, 1) and comparison.difference * metric.sign > 0
    assert np.isfinite(forecast(name, targets, values, task, groups, 60, replicates=5).private).all()


def test_counts_and_the_plain_function_give_the_same():
    targets, (probs, *_), groups, _ = example("multilabel")
    targets[::7, 0] = np.nan
    values = make_decisions(probs, 0.5, "multilabel")
    known = [~np.isnan(column) for column in targets.T]
    expected = np.mean([sk.matthews_corrcoef(targets[rows, k], values[rows, k]) for k, rows in enumerate(known)])
    assert MATTHEWS.score(targets, values, "multilabel") == pytest.approx(expected, abs=1e-12)
    both = [bootstrap_scores(name, targets, values, "multilabel", groups, 20)
            for name in ("matthews", "plain_matthews")]
    assert both[0] == pytest.approx(both[1], abs=1e-12)
    both = [fit_thresholds(targets[:40], probs[:40], name) for name in ("matthews", "plain_matthews")]
    assert both[0] == pytest.approx(both[1], abs=1e-12)  # with 40 rows every cut is tried


@pytest.mark.parametrize("name", ["matthews", "plain_matthews"])
def test_thresholds_are_the_best_of_all_cuts(name):
    targets, (_, probs, _), *_ = example("multilabel", 30)
    found = fit_thresholds(targets, probs, name)
    for k in range(2):  # a mean over labels is best where each label is
        best = max(sk.matthews_corrcoef(targets[:, k], probs[:, k] >= cut) for cut in probs[:, k])
        assert sk.matthews_corrcoef(targets[:, k], probs[:, k] >= found[k]) == pytest.approx(best)


@pytest.mark.parametrize("name", ["matthews", "plain_matthews"])
def test_class_weights_improve_a_foreign_metric(name):
    targets, (_, probs, _), *_ = example("multiclass", 200)
    probs = probs * [1, 0.5, 0.5]
    weights = fit_class_weights(targets, probs, name)
    scores = [METRICS[name].score(targets, make_decisions(probs * each, None, "multiclass"), "multiclass")
              for each in (np.ones(3), weights)]
    assert scores[1] > scores[0] + 0.01


def test_thresholds_and_class_weights_make_a_loss_smaller(monkeypatch):
    loss = Metric(name="errors", title="errors", uses="decisions", greater_is_better=False,
                  function=lambda targets, decisions, task, weights=None: 1 - METRICS["subset_accuracy"].score(
                      targets, decisions, task, weights))
    monkeypatch.setitem(METRICS, "errors", loss)
    targets, (_, probs, _), *_ = example("binary", 40)
    assert fit_thresholds(targets, probs, "errors") == pytest.approx(fit_thresholds(targets, probs, "accuracy"))
    targets, (_, probs, _), *_ = example("multiclass", 200)
    expected = fit_class_weights(targets, probs * [1, 0.5, 0.5], "accuracy")
    assert fit_class_weights(targets, probs * [1, 0.5, 0.5], "errors").tolist() == expected.tolist()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", FOREIGN)
def test_every_rule_and_blend_can_be_fitted_for_a_foreign_metric(name, task):
    targets, members, _, folds = example(task)
    labels = ("a", "b", "c")[:targets.shape[1]]
    rules = rules_for(task, labels, name)
    assert len(rules) >= 2
    for rule in rules.values():
        assert np.isfinite(METRICS[name].score(targets, rule.crossfit(targets, members[0], folds), task))
    for method in METHODS:
        assert np.isfinite(fit_blend(method, members, targets, task, name).apply(members, folds, task)).all()
    assert np.isfinite(crossfit_blend("weights", members, targets, folds, task, name)).all()


def test_blend_weights_are_searched_by_a_foreign_metric():
    targets, members, _, _ = example("multilabel", 300)
    weights = fit_blend("weights", members, targets, "multilabel", "concordance").weights
    by_auc = fit_blend("weights", members, targets, "multilabel", "roc_auc").weights
    assert weights == pytest.approx(by_auc) and weights[2] < 0.1


# ---- the scripts


@pytest.fixture
def competition(home, monkeypatch, request) -> Competition:
    """A competition that is scored by a foreign metric, with two runs."""
    monkeypatch.setattr(label_shift, "REPLICATES", 10)
    name, task = request.param
    labels = ("a", "b", "c") if task == "multiclass" else ("a", "b")
    mine = Competition(name="mine", about="made up", task=task, labels=labels, metric=name, group_column="patient",
                       train=Part(table="train.csv", images="images/{image_id}.png"),
                       test=Part(table="test.csv", images="images/{image_id}.png"))
    fabricate_two_runs(home, monkeypatch, mine)
    return mine


@pytest.mark.parametrize("competition", [("matthews", "multilabel"), ("plain_matthews", "multiclass"),
                                         ("concordance", "multilabel"), ("absolute", "multilabel")], indirect=True)
def test_the_scripts_accept_a_foreign_metric(competition, capsys):
    metric, where = METRICS[competition.metric], ["--competition", "mine"]
    board = leaderboard.main(where).set_index("run").loc["one"]
    assert np.isfinite(board["cv"]) and (np.isnan(board["low"]) or board["low"] <= board["cv"] <= board["high"])
    assert len(leaderboard.main([*where, "--compare", "one", "two"])) == 1
    assert len(leaderboard.main([*where, "--forecast"])) == 2
    rules = decide.main([*where, "--experiment", "one", "--label-shift"])["one"]["rules"]
    assert rules[metric.name][next(iter(rules[metric.name]))]["crossfit"] == pytest.approx(board["cv"])
    assert {"blend_mean", "blend_rank_mean"} <= set(blend.main([*where, "--experiment", "one", "two"]))
    assert f"CV {metric.title}" in capsys.readouterr().out


def test_help_and_competitions_know_a_foreign_metric(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        decide.main(["--help"])
    assert "plain_matthews" in capsys.readouterr().out
    ordinal = replace(MATTHEWS, name="ordinal", tasks=("binary",))
    monkeypatch.setitem(METRICS, "ordinal", ordinal)
    with pytest.raises(ValueError, match="competition 'mine': the metric ordinal is for binary tasks"):
        Competition(name="mine", about="", task="multilabel", labels=("a", "b"), metric="ordinal",
                    train=Part(table="train.csv", images="{id}.png"))


# ---- a decision rule from elsewhere

NEVER = RuleEntry(name="never", about="no label is decided for", gives="decisions", tasks=("binary", "multilabel"),
                  is_fitted=False, fit=lambda targets, probs, rule: FittedRule(
                      lambda p: np.zeros(p.shape, np.int8), {"thresholds": [2.0] * len(rule.labels)}))


@pytest.mark.parametrize("competition", [("matthews", "multilabel")], indirect=True)
def test_a_foreign_rule_is_compared_and_adopted(competition, monkeypatch, capsys):
    monkeypatch.setitem(RULES, "never", NEVER)
    where = ["--competition", "mine"]
    made = decide.main([*where, "--experiment", "one", "--adopt", "never"])["one"]
    assert made["rules"]["matthews"]["never"]["crossfit"] == 0
    assert made["adopted"] == {"decisions": {"rule": "never", "metric": "matthews"}}
    assert leaderboard.main(where).set_index("run").loc["one", "cv"] == 0
    with pytest.raises(ValueError, match="no decision rule 'nver'; did you mean never"):
        decide.main([*where, "--experiment", "one", "--adopt", "nver"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        decide.main(["--help"])
    assert "never" in capsys.readouterr().out
