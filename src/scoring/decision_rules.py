"""Decision rules from a run's probabilities to decisions or calibrated probabilities, one entry each in RULES.

To add a rule, write one entry. decide.py compares it with the others and adopts it by name; leaderboard, predict,
submit, explain and report then apply it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from scoring.calibration import apply_platt, apply_temperatures, fit_platt, fit_temperatures
from scoring.metrics import METRICS, TASKS, confusion_scorer, decide
from scoring.thresholds import DEFAULT_THRESHOLD, fit_thresholds, held_out_rows

Kind = Literal["probs", "decisions"]
BY_LABEL = ("binary", "multilabel")  # the tasks whose labels are decided one by one

# log2 of the weights that are tried for a class; of equally good ones the first, nearest to 0, is taken
LOG_WEIGHTS = np.array(sorted(np.arange(-4, 4.01, 0.25), key=abs))
PASSES = 10  # over the classes, at most


@dataclass(frozen=True)
class FittedRule:
    """A rule with its parameters.

    apply: from probabilities (N, K) to probabilities, or to decisions of 0 and 1;  parameters: by name, a list has one
    value per label in the order of the labels.
    """

    apply: Callable[[np.ndarray], np.ndarray]
    parameters: dict[str, list | float | str] = field(default_factory=dict)

    def describe(self, k: int) -> str:
        """The condition for deciding for label k, in a few words."""
        if "thresholds" in self.parameters:
            return f"p ≥ {self.parameters['thresholds'][k]:.3f}"
        if "weights" in self.parameters:
            return f"largest p × weight, here {self.parameters['weights'][k]:.2f}"
        return "most probable class" + "".join(f", {name} {value}" for name, value in self.parameters.items())


@dataclass(frozen=True, kw_only=True)
class RuleEntry:
    """One entry of RULES."""

    name: str
    about: str
    gives: Kind  # for metrics that take these
    fit: Callable[[np.ndarray, np.ndarray, "DecisionRule"], FittedRule]  # (targets (N, K), probs (N, K), rule)
    tasks: tuple[str, ...] = TASKS
    is_fitted: bool = True  # False: it has no parameters
    fits_labels: Callable[[tuple[str, ...]], bool] = lambda labels: True


@dataclass(frozen=True)
class DecisionRule:
    """An entry of RULES for one task, its labels and a metric; `fit` determines its parameters."""

    entry: RuleEntry
    task: str
    labels: tuple[str, ...]
    metric: str

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def is_fitted(self) -> bool:
        return self.entry.is_fitted

    def fit(self, targets: np.ndarray, probs: np.ndarray) -> FittedRule:
        """The rule with parameters fitted on targets (N, K), 0, 1 or NaN, and probs (N, K)."""
        return self.entry.fit(targets, probs, self)

    def crossfit(self, targets: np.ndarray, probs: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """(N, K) the values of every fold by the rule fitted on the other folds only.

        Raises ValueError if the rule has parameters and there is only one fold.
        """
        if not self.is_fitted:
            return self.fit(targets, probs).apply(probs)
        values = np.empty(probs.shape, dtype=np.int8 if self.entry.gives == "decisions" else np.float64)
        for held_out in held_out_rows(folds):
            values[held_out] = self.fit(targets[~held_out], probs[~held_out]).apply(probs[held_out])
        return values


# (first, positive, negative) of three classes that are decided in two steps: `first` where it is the most probable,
# else `positive` from a threshold on
RIVALS = {frozenset(names): names for names in (("pneumonia", "tuberculosis", "no_findings"),
                                                ("normal", "virus", "bacteria"))}


def threshold_rule(thresholds: np.ndarray) -> FittedRule:
    """Decides for a label where its probability is at least its threshold (K,)."""
    return FittedRule(lambda probs: decide(probs, thresholds, "multilabel"), {"thresholds": thresholds.tolist()})


def weight_rule(weights: np.ndarray) -> FittedRule:
    """Decides for the class of the largest probability times weight (K,)."""
    return FittedRule(lambda probs: decide(probs * weights, None, "multiclass"), {"weights": weights.tolist()})


def fit_class_weights(targets: np.ndarray, probs: np.ndarray, metric: str) -> np.ndarray:
    """(K,) factors of the classes' probabilities, best for the metric when the class of the largest product is taken.

    Powers of two in steps of a quarter, from 1/16 to 16, are tried for one class after the other given the rest, until
    none changes; the first class keeps 1 because only ratios matter. Never worse on these rows than the most probable
    class; other weights may be better.
    """
    rows = ~np.isnan(targets).any(axis=1)
    count = targets.shape[1]
    if not rows.any():
        return np.ones(count)
    truth, probs, weights = targets[rows].argmax(axis=1), probs[rows].astype(np.float64), np.ones(count)
    scorer, sign = confusion_scorer(metric, count), METRICS[metric].sign

    def quality(trial: np.ndarray) -> float:
        pairs = truth * count + (probs * trial).argmax(axis=1)
        return sign * scorer(np.bincount(pairs, minlength=count**2)[None])[0]

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
    from sklearn.metrics import precision_recall_curve

    rows = (targets[:, positive] == 1) | (targets[:, negative] == 1)
    if len(np.unique(truth := targets[rows, positive])) < 2:
        return DEFAULT_THRESHOLD
    precision, recall, thresholds = precision_recall_curve(truth, probs[rows, positive])
    return float(thresholds[np.hypot(1 - precision, 1 - recall)[:-1].argmin()])


# ---- the fits of the entries


def _fit_temperature(targets: np.ndarray, probs: np.ndarray, rule: DecisionRule) -> FittedRule:
    temperatures = fit_temperatures(targets, probs, rule.task)
    return FittedRule(lambda p: apply_temperatures(p, temperatures, rule.task), {"temperatures": temperatures.tolist()})


def _fit_platt(targets: np.ndarray, probs: np.ndarray, rule: DecisionRule) -> FittedRule:
    lines = fit_platt(targets, probs)
    slopes, offsets = lines.T.tolist()
    return FittedRule(lambda p: apply_platt(p, lines), {"slopes": slopes, "offsets": offsets})


def _fit_rivals(targets: np.ndarray, probs: np.ndarray, rule: DecisionRule) -> FittedRule:
    names = RIVALS[frozenset(rule.labels)]
    first, positive, negative = map(rule.labels.index, names)
    threshold = fit_rivals_threshold(targets, probs, positive, negative)

    def apply(probs: np.ndarray) -> np.ndarray:
        classes = np.where(probs[:, positive] >= threshold, positive, negative)
        classes = np.where(probs.argmax(axis=1) == first, first, classes)
        return np.eye(probs.shape[1], dtype=np.int8)[classes]

    return FittedRule(apply, {"first": names[0], f"else {names[1]} from": round(threshold, 6), "else": names[2]})


# of those for a metric, task and labels the first is the default
RULES = {
    entry.name: entry
    for entry in (
        RuleEntry(name="as_is", about="probabilities as the run predicts them", gives="probs", is_fitted=False,
                  fit=lambda targets, probs, rule: FittedRule(lambda p: p)),
        RuleEntry(name="temperature", about="logits divided by a temperature (Guo et al. 2017)", gives="probs",
                  fit=_fit_temperature),
        RuleEntry(name="platt", about="a slope and an offset for each label's logits (Platt 1999)", gives="probs",
                  tasks=BY_LABEL, fit=_fit_platt),
        RuleEntry(name="thresholds", about="a threshold per label, best for the metric", gives="decisions",
                  tasks=BY_LABEL,
                  fit=lambda targets, probs, rule: threshold_rule(fit_thresholds(targets, probs, rule.metric))),
        RuleEntry(name="half", about="a threshold of 0.5", gives="decisions", tasks=BY_LABEL, is_fitted=False,
                  fit=lambda targets, probs, rule: threshold_rule(np.full(targets.shape[1], DEFAULT_THRESHOLD))),
        RuleEntry(name="argmax", about="the most probable class", gives="decisions", tasks=("multiclass",),
                  is_fitted=False,
                  fit=lambda targets, probs, rule: FittedRule(lambda p: decide(p, None, "multiclass"))),
        RuleEntry(name="prior_scaled", about="the largest probability times a weight per class, best for the metric",
                  gives="decisions", tasks=("multiclass",),
                  fit=lambda targets, probs, rule: weight_rule(fit_class_weights(targets, probs, rule.metric))),
        RuleEntry(name="rivals", about="two steps for three known classes (reference system 002)", gives="decisions",
                  tasks=("multiclass",), fits_labels=lambda labels: frozenset(labels) in RIVALS, fit=_fit_rivals),
    )
}


def rules_for(task: str, labels: tuple[str, ...], metric: str) -> dict[str, DecisionRule]:
    """The rules for a metric, a task and labels by name, the default first."""
    return {entry.name: DecisionRule(entry, task, labels, metric) for entry in RULES.values()
            if METRICS[metric].uses == entry.gives and task in entry.tasks and entry.fits_labels(labels)}
