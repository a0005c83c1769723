"""From probabilities to what is handed in: rules with parameters, fitted on some rows and applied to others."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from sklearn.metrics import precision_recall_curve

from scoring.bootstrap_metrics import ROW_METRICS
from scoring.calibration import apply_platt, apply_temperatures, fit_platt, fit_temperatures
from scoring.metrics import METRICS, decide
from scoring.thresholds import DEFAULT_THRESHOLD, fit_thresholds, held_out_rows

Kind = Literal["probs", "decisions"]

# log2 of the weights that are tried for a class, the nearest to 0 first, which of equally good ones is taken
LOG_WEIGHTS = np.array(sorted(np.arange(-4, 4.01, 0.25), key=abs))
PASSES = 10  # over the classes, at most


@dataclass(frozen=True)
class FittedRule:
    """A policy with its parameters: `apply` makes (N, K) probabilities, or decisions of 0 and 1, of probabilities.

    parameters: by name; a list has an entry a label, in the order of the labels.
    """

    apply: Callable[[np.ndarray], np.ndarray]
    parameters: dict[str, list | float | str] = field(default_factory=dict)

    def rule(self, k: int) -> str:
        """In a few words, when label k is decided for."""
        if "thresholds" in self.parameters:
            return f"p ≥ {self.parameters['thresholds'][k]:.3f}"
        if "weights" in self.parameters:
            return f"largest p × weight, here {self.parameters['weights'][k]:.2f}"
        return "most probable class" + "".join(f", {name} {value}" for name, value in self.parameters.items())


@dataclass(frozen=True)
class Policy:
    """A rule: `fit(targets, probs)` on (N, K) gives it its parameters. `metric` is what decisions are made for."""

    name: str
    gives: Kind
    fit: Callable[[np.ndarray, np.ndarray], FittedRule]
    metric: str
    is_fitted: bool = True  # False: it has no parameters

    def crossfit(self, targets: np.ndarray, probs: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """(N, K) what it makes of every fold when fitted on the other folds only.

        Raises ValueError where it is fitted and there is one fold only.
        """
        if not self.is_fitted:
            return self.fit(targets, probs).apply(probs)
        values = np.empty(probs.shape, dtype=np.int8 if self.gives == "decisions" else np.float64)
        for held_out in held_out_rows(folds):
            values[held_out] = self.fit(targets[~held_out], probs[~held_out]).apply(probs[held_out])
        return values


@dataclass(frozen=True)
class Rivals:
    """Three classes of which one is told apart first: `first` where it is the most probable, else one of the others."""

    first: str
    positive: str
    negative: str


# by the labels of a competition
RIVALS = {rivals: Rivals(*names) for rivals, names in (
    (frozenset({"no_findings", "pneumonia", "tuberculosis"}), ("pneumonia", "tuberculosis", "no_findings")),
    (frozenset({"normal", "bacteria", "virus"}), ("normal", "virus", "bacteria")),
)}


def make_policies(task: str, labels: tuple[str, ...], metric: str) -> dict[str, Policy]:
    """All policies for a metric by name, the one that is used unless another is adopted first.

    For a metric of probabilities: as_is, temperature, platt. For one of decisions: thresholds and half; multiclass:
    argmax, prior_scaled and, where RIVALS knows the labels, rivals.
    """
    if METRICS[metric].uses == "probs":
        policies = [Policy("as_is", "probs", lambda targets, probs: FittedRule(lambda p: p), metric, False),
                    Policy("temperature", "probs", lambda targets, probs: _temperature(targets, probs, task), metric)]
        if task != "multiclass":
            policies.append(Policy("platt", "probs", _platt, metric))
    elif task == "multiclass":
        policies = [Policy("argmax", "decisions", lambda t, p: FittedRule(lambda probs: decide(probs, None, task)), metric,
                           False),
                    Policy("prior_scaled", "decisions",
                           lambda targets, probs: weigh_classes(fit_class_weights(targets, probs, metric)), metric)]
        if rivals := RIVALS.get(frozenset(labels)):
            policies.append(Policy("rivals", "decisions",
                                   lambda targets, probs: _fit_rivals(targets, probs, labels, rivals), metric))
    else:
        policies = [Policy("thresholds", "decisions",
                           lambda targets, probs: threshold_rule(fit_thresholds(targets, probs, metric)), metric),
                    Policy("half", "decisions",
                           lambda targets, probs: threshold_rule(np.full(len(labels), DEFAULT_THRESHOLD)), metric, False)]
    return {policy.name: policy for policy in policies}


def threshold_rule(thresholds: np.ndarray) -> FittedRule:
    """Decides for a label where its probability is at least its threshold (K,)."""
    return FittedRule(lambda probs: decide(probs, thresholds, "multilabel"), {"thresholds": thresholds.tolist()})


def weigh_classes(weights: np.ndarray) -> FittedRule:
    """Decides for the class of the largest probability times weight (K,)."""
    return FittedRule(lambda probs: decide(probs * weights, None, "multiclass"), {"weights": weights.tolist()})


def fit_class_weights(targets: np.ndarray, probs: np.ndarray, metric: str) -> np.ndarray:
    """(K,) what to multiply the classes' probabilities by before the largest is decided for, best for the metric.

    Powers of two in steps of a quarter, from 1/16 to 16, are tried for one class after the other given the rest, until
    none changes; the first class keeps 1 because only ratios matter. Never worse on these rows than the most probable
    class, but with no promise that no other weights are better.
    """
    rows = ~np.isnan(targets).any(axis=1)
    count = targets.shape[1]
    if not rows.any():
        return np.ones(count)
    truth, probs, weights = targets[rows].argmax(axis=1), probs[rows].astype(np.float64), np.ones(count)

    def quality(trial: np.ndarray) -> float:
        pairs = truth * count + (probs * trial).argmax(axis=1)
        return score_confusion(metric, np.bincount(pairs, minlength=count**2).reshape(count, count))

    best = quality(weights)
    for _ in range(PASSES):
        before = weights.copy()
        for k in range(1, count):
            for log_weight in LOG_WEIGHTS:
                trial = weights.copy()
                trial[k] = 2.0**log_weight
                if (found := quality(trial)) > best + 1e-12:
                    best, weights = found, trial
        if (weights == before).all():
            break
    return weights


def fit_rivals_threshold(targets: np.ndarray, probs: np.ndarray, positive: int, negative: int) -> float:
    """The probability of class `positive` whose point on the precision-recall curve lies nearest to (1, 1).

    The curve is that of rows of the two classes only; of equally near points the first, and the default threshold where
    one of the classes has no row. The rule of reference system 002, for tuberculosis against no findings.
    """
    rows = (targets[:, positive] == 1) | (targets[:, negative] == 1)
    if len(np.unique(truth := targets[rows, positive])) < 2:
        return DEFAULT_THRESHOLD
    precision, recall, thresholds = precision_recall_curve(truth, probs[rows, positive])
    return float(thresholds[np.hypot(1 - precision, 1 - recall)[:-1].argmin()])


def score_confusion(metric: str, confusion: np.ndarray) -> float:
    """A metric of multiclass decisions out of the counts (K, K): rows the true class, columns the decided one.

    NaN where the metric is undefined. To try many decisions about the same rows this is faster than the rows are.
    """
    right, total = np.diagonal(confusion), confusion.sum()
    by_class, by_decision = confusion.sum(axis=1), confusion.sum(axis=0)
    if metric in ("accuracy", *ROW_METRICS):  # one class a row: all of these are the share of rows decided rightly
        return float(right.sum() / total) if total else float("nan")
    defined = (by_class > 0) & (by_class < total)
    if not defined.any():
        return float("nan")
    if metric == "balanced_accuracy":
        return float(np.mean(right[by_class > 0] / by_class[by_class > 0]))
    if metric == "quadratic_kappa":
        miss = np.square(np.subtract.outer(np.arange(len(right)), np.arange(len(right))))
        return float(1 - (miss * confusion).sum() * total / (miss * np.outer(by_class, by_decision)).sum())
    if metric == "f1_micro":
        return float(right.sum() / total)
    f1 = 2 * right[defined] / (by_class + by_decision)[defined]
    return float(np.average(f1, weights=by_class[defined] if metric == "f1_weighted" else None))


def _fit_rivals(targets: np.ndarray, probs: np.ndarray, labels: tuple[str, ...], rivals: Rivals) -> FittedRule:
    first, positive, negative = (labels.index(name) for name in (rivals.first, rivals.positive, rivals.negative))
    threshold = fit_rivals_threshold(targets, probs, positive, negative)

    def apply(probs: np.ndarray) -> np.ndarray:
        classes = np.where(probs[:, positive] >= threshold, positive, negative)
        classes = np.where(probs.argmax(axis=1) == first, first, classes)
        return np.eye(probs.shape[1], dtype=np.int8)[classes]

    return FittedRule(apply, {"first": rivals.first, f"else {rivals.positive} from": round(threshold, 6),
                          "else": rivals.negative})


def _temperature(targets: np.ndarray, probs: np.ndarray, task: str) -> FittedRule:
    temperatures = fit_temperatures(targets, probs, task)
    return FittedRule(lambda p: apply_temperatures(p, temperatures, task), {"temperatures": temperatures.tolist()})


def _platt(targets: np.ndarray, probs: np.ndarray) -> FittedRule:
    lines = fit_platt(targets, probs)
    return FittedRule(lambda p: apply_platt(p, lines), {"slopes": lines[:, 0].tolist(), "offsets": lines[:, 1].tolist()})
