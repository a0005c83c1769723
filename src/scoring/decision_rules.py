"""Decision rules from a run's probabilities to decisions or calibrated probabilities, one entry each in RULES.

To add a rule, write one entry. decide.py compares it with the others and adopts it by name; leaderboard, predict,
submit, explain and report then apply it.
"""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from scoring.calibration import apply_platt, apply_temperatures, fit_platt, fit_temperatures
from scoring.label_shift import calibrate, class_weights, reweigh
from scoring.metrics import METRICS, TASKS, confusion_scorer, decide
from scoring.thresholds import DEFAULT_THRESHOLD, fit_thresholds, held_out_rows

Kind = Literal["probs", "decisions"]
BY_LABEL = ("binary", "multilabel")  # the tasks whose labels are decided one by one

# log2 of the weights that are tried for a class; of equally good ones the first, nearest to 0, is taken
LOG_WEIGHTS = np.array(sorted(np.arange(-4, 4.01, 0.25), key=abs))
PASSES = 10  # over the classes, at most


@dataclass(frozen=True)
class FittedRule:
    """A rule with its parameters: `apply` makes (N, K) probabilities, or decisions of 0 and 1, of probabilities.

    parameters: by name; a list has an entry a label, in the order of the labels.
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


@dataclass(frozen=True)
class Setting:
    """What a rule is fitted for: the competition's task and labels, a metric, and an estimated prevalence (K,)."""

    task: str
    labels: tuple[str, ...]
    metric: str
    prevalence: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class RuleEntry:
    """One entry of RULES."""

    name: str
    about: str
    gives: tuple[Kind, ...]  # for metrics that take these
    fit: Callable[[np.ndarray, np.ndarray, Setting], FittedRule]  # (targets (N, K), probs (N, K), setting)
    tasks: tuple[str, ...] = TASKS
    is_fitted: bool = True  # False: it has no parameters
    fits_labels: Callable[[tuple[str, ...]], bool] = lambda labels: True
    for_prevalence: bool = False  # for a part whose prevalence was estimated, and for no other


@dataclass(frozen=True)
class DecisionRule:
    """An entry of RULES in its setting: `fit` gives it its parameters."""

    entry: RuleEntry
    setting: Setting

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def metric(self) -> str:
        return self.setting.metric

    @property
    def gives(self) -> Kind:
        """What it makes of probabilities: what its metric takes."""
        return METRICS[self.metric].uses

    @property
    def is_fitted(self) -> bool:
        return self.entry.is_fitted

    def fit(self, targets: np.ndarray, probs: np.ndarray) -> FittedRule:
        """The rule with parameters fitted on targets (N, K), 0, 1 or NaN, and probs (N, K)."""
        return self.entry.fit(targets, probs, self.setting)

    def crossfit(self, targets: np.ndarray, probs: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """(N, K) the values of every fold by the rule fitted on the other folds only.

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
    """Three classes decided in two steps: `first` where it is the most probable, else one of the other two."""

    first: str
    positive: str
    negative: str


# by the labels of a competition
RIVALS = {rivals: Rivals(*names) for rivals, names in (
    (frozenset({"no_findings", "pneumonia", "tuberculosis"}), ("pneumonia", "tuberculosis", "no_findings")),
    (frozenset({"normal", "bacteria", "virus"}), ("normal", "virus", "bacteria")),
)}


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


def _fit_temperature(targets: np.ndarray, probs: np.ndarray, setting: Setting) -> FittedRule:
    temperatures = fit_temperatures(targets, probs, setting.task)
    return FittedRule(lambda p: apply_temperatures(p, temperatures, setting.task),
                      {"temperatures": temperatures.tolist()})


def _fit_platt(targets: np.ndarray, probs: np.ndarray, setting: Setting) -> FittedRule:
    lines = fit_platt(targets, probs)
    slopes, offsets = lines.T.tolist()
    return FittedRule(lambda p: apply_platt(p, lines), {"slopes": slopes, "offsets": offsets})


def _fit_rivals(targets: np.ndarray, probs: np.ndarray, setting: Setting) -> FittedRule:
    rivals = RIVALS[frozenset(setting.labels)]
    first, positive, negative = map(setting.labels.index, (rivals.first, rivals.positive, rivals.negative))
    threshold = fit_rivals_threshold(targets, probs, positive, negative)

    def apply(probs: np.ndarray) -> np.ndarray:
        classes = np.where(probs[:, positive] >= threshold, positive, negative)
        classes = np.where(probs.argmax(axis=1) == first, first, classes)
        return np.eye(probs.shape[1], dtype=np.int8)[classes]

    return FittedRule(apply, {"first": rivals.first, f"else {rivals.positive} from": round(threshold, 6),
                              "else": rivals.negative})


def _fit_label_shift(targets: np.ndarray, probs: np.ndarray, setting: Setting) -> FittedRule:
    """Thresholds are fitted on rows that are weighted to the prevalence; a label whose prevalence is NaN is unchanged.

    Multiclass: the class of the largest calibrated probability times prevalence over training prevalence.
    Probabilities are calibrated, then changed to the prevalence by Bayes' rule.
    """
    prevalence, task, metric = setting.prevalence, setting.task, setting.metric
    if METRICS[metric].uses == "decisions" and task != "multiclass":
        return threshold_rule(fit_thresholds(targets, probs, metric, class_weights(targets, prevalence, task)))
    calibrated = calibrate(targets, probs, task)
    known = ~np.isnan(targets)
    rows = known | ~known.any(axis=0)
    prior = np.where(rows, calibrated(probs), 0).sum(axis=0) / np.maximum(rows.sum(axis=0), 1)
    wanted = np.where(np.isnan(prevalence), prior, prevalence)
    if METRICS[metric].uses == "decisions":
        ratios = wanted / prior
        return FittedRule(lambda p: decide(calibrated(p) * ratios, None, task), {"weights": ratios.tolist()})
    return FittedRule(lambda p: reweigh(calibrated(p), prior, wanted, task), {"prevalence": wanted.tolist()})


# of those that fit a metric, task and labels the first is the default
RULES = {
    entry.name: entry
    for entry in (
        RuleEntry(name="as_is", about="probabilities as the run gives them", gives=("probs",), is_fitted=False,
                  fit=lambda targets, probs, setting: FittedRule(lambda p: p)),
        RuleEntry(name="temperature", about="logits divided by a temperature (Guo et al. 2017)", gives=("probs",),
                  fit=_fit_temperature),
        RuleEntry(name="platt", about="logits on a line, by label (Platt 1999)", gives=("probs",), tasks=BY_LABEL,
                  fit=_fit_platt),
        RuleEntry(name="thresholds", about="a threshold a label, best for the metric", gives=("decisions",),
                  tasks=BY_LABEL,
                  fit=lambda targets, probs, setting: threshold_rule(fit_thresholds(targets, probs, setting.metric))),
        RuleEntry(name="half", about="a threshold of 0.5", gives=("decisions",), tasks=BY_LABEL, is_fitted=False,
                  fit=lambda targets, probs, setting: threshold_rule(np.full(targets.shape[1], DEFAULT_THRESHOLD))),
        RuleEntry(name="argmax", about="the most probable class", gives=("decisions",), tasks=("multiclass",),
                  is_fitted=False,
                  fit=lambda targets, probs, setting: FittedRule(lambda p: decide(p, None, "multiclass"))),
        RuleEntry(name="prior_scaled", about="the largest probability times a weight a class, best for the metric",
                  gives=("decisions",), tasks=("multiclass",),
                  fit=lambda targets, probs, setting: weight_rule(fit_class_weights(targets, probs, setting.metric))),
        RuleEntry(name="rivals", about="two steps for three known classes (reference system 002)",
                  gives=("decisions",), tasks=("multiclass",), fits_labels=lambda labels: frozenset(labels) in RIVALS,
                  fit=_fit_rivals),
        RuleEntry(name="label_shift", about="for the prevalence of the test part, estimated from its scores",
                  gives=("probs", "decisions"), for_prevalence=True, fit=_fit_label_shift),
    )
}


def rules_for(task: str, labels: tuple[str, ...], metric: str) -> dict[str, DecisionRule]:
    """The rules for a metric, a task and labels by name, the default first; none that needs a prevalence."""
    setting = Setting(task, labels, metric)
    return {entry.name: DecisionRule(entry, setting) for entry in RULES.values()
            if METRICS[metric].uses in entry.gives and task in entry.tasks and entry.fits_labels(labels)
            and not entry.for_prevalence}


def rule_for_prevalence(name: str, task: str, labels: tuple[str, ...], metric: str,
                        prevalence: np.ndarray) -> DecisionRule:
    """The rule of this name for the prevalence (K,), NaN where a label is to be left unchanged."""
    return DecisionRule(RULES[name], Setting(task, labels, metric, prevalence))


def check_rule(name: str, choices: Iterable[str]) -> None:
    """Raises ValueError where the name is none of the choices; it names the nearest ones."""
    if name not in (choices := list(choices)):
        near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"no decision rule {name!r}; {hint}choose one of {', '.join(choices)}")
