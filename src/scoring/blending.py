"""Several models' probabilities made into one: means, weights that are searched for, stacking.

Everywhere in this file:
  members  (M, N, K) probabilities in [0, 1]; rows of multiclass sum to 1
  targets  (N, K) 0, 1, or NaN where a cell is not scored; multiclass rows are one-hot, or NaN throughout
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, softmax
from scipy.stats import rankdata

from scoring.calibration import logits_of
from scoring.metrics import METRICS, undefined_labels

POWER = 2.0  # of the power mean; 1 is the mean, towards 0 the geometric one
CLIP = 1e-6  # probabilities of 0 and 1 have no logit: they count as this near to it
BAGS, ROUNDS = 20, 20  # of the greedy selection; 20 bags as in the paper
STRENGTH = 0.03  # C of the stacking on standardised logits, which nearly all say the same; 0.01 to 0.1 differ little
FITTED_ROWS = 10_000  # weights are searched on no more rows than that, drawn by chance: they are few numbers
STEPS = (0.4, 0.2, 0.1, 0.05, 0.02)  # of the search for weights


@dataclass(frozen=True)
class Blend:
    """One of METHODS with what was fitted: weights of members, or coefficients of all members' logits of all labels."""

    method: str
    weights: np.ndarray | None = None  # (M,) not negative, their sum is 1
    coefficients: np.ndarray | None = None  # (K, M, K): of label k, over the members' logits of all labels
    intercepts: np.ndarray | None = None  # (K,)

    def apply(self, members: np.ndarray, folds: np.ndarray | None = None, task: str = "multilabel") -> np.ndarray:
        """(N, K) the blend of members (M, N, K). Only ranks look at `folds`; see `rank_mean_blend`."""
        if self.weights is not None:
            return weighted_mean(self.weights, members)
        if self.coefficients is not None:
            logits = np.einsum("mnj,kmj->nk", to_logits(members, task), self.coefficients) + self.intercepts
            return from_logits(logits, task)
        return UNFITTED[self.method](members, folds, task)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What was fitted; nothing for a method that fits nothing."""
        return tuple(array for array in (self.weights, self.coefficients, self.intercepts) if array is not None)

    def to_json(self, members: Sequence[str], labels: Sequence[str]) -> dict:
        """What was fitted, by the names of members and labels; empty where nothing was."""
        if self.weights is not None:
            return {"weights": dict(zip(members, self.weights.tolist(), strict=True))}
        if self.coefficients is None:
            return {}
        return {"intercepts": dict(zip(labels, self.intercepts.tolist(), strict=True)), "coefficients": {
            label: {member: dict(zip(labels, row.tolist(), strict=True))
                    for member, row in zip(members, rows, strict=True)}
            for label, rows in zip(labels, self.coefficients, strict=True)}}


def from_json(method: str, record: dict, members: Sequence[str], labels: Sequence[str]) -> Blend:
    """The blend that `to_json` described. Raises ValueError where the record is not of such a blend."""
    if method not in METHODS:
        raise ValueError(f"there is no blend called {method!r}, only {', '.join(METHODS)}")
    if method in UNFITTED:
        return Blend(method)
    record = record if isinstance(record, dict) else {}
    if method == "stacking":
        by_label = _named(record.get("coefficients"), labels, "coefficients")
        coefficients = [[_numbers(row, labels, "coefficients") for row in _named(rows, members, "coefficients")]
                        for rows in by_label]
        return Blend(method, None, np.array(coefficients), _numbers(record.get("intercepts"), labels, "intercepts"))
    weights = _numbers(record.get("weights"), members, "weights")
    if (weights < 0).any() or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(f"the weights {record['weights']} are not what they must be: none negative, their sum 1")
    return Blend(method, weights)


def _named(record: object, names: Sequence[str], what: str) -> list:
    """The values of an object that has these names and no others, in their order."""
    if not isinstance(record, dict) or set(record) != set(names):
        raise ValueError(f"{what} are wanted for {', '.join(names)}; there "
                         + (f"are some for {', '.join(record) or 'none'}" if isinstance(record, dict) else "are none"))
    return [record[name] for name in names]


def _numbers(record: object, names: Sequence[str], what: str) -> np.ndarray:
    values = _named(record, names, what)
    if wrong := [value for value in values if isinstance(value, bool) or not isinstance(value, (int, float))]:
        raise ValueError(f"{wrong[0]!r} among the {what} is not a number")
    if not np.isfinite(values).all():
        raise ValueError(f"the {what} {values} are not all finite")
    return np.array(values, dtype=np.float64)


# ---- nothing is fitted


def mean_blend(members: np.ndarray, folds: np.ndarray | None = None, task: str = "multilabel") -> np.ndarray:
    """(N, K) mean of members (M, N, K). `folds` and `task` change nothing here."""
    return np.mean(members, axis=0, dtype=np.float64)


def rank_mean_blend(members: np.ndarray, folds: np.ndarray | None = None, task: str = "multilabel") -> np.ndarray:
    """(N, K) mean over members (M, N, K) of each one's ranks, in (0, 1]; ties share their mean rank.

    A rank is a share of its column: 1 is the highest score. With `folds` it is taken within the fold, because each
    fold's model has a scale of its own: (N,) for all members, or (M, N) where they are runs on several splits.
    Ranks say which image comes before which and nothing else: they are no probabilities, and a threshold for them must
    be fitted on them.
    Multiclass: ranks are taken over all K columns together, so that each member still decides for the same class in
    every row, and every row of the mean is divided by its sum.
    """
    members = np.asarray(members)
    folds = np.broadcast_to(0 if folds is None else folds, members.shape[:2])
    ranks = np.empty(members.shape)
    for own, probs, own_folds in zip(ranks, members, folds, strict=True):
        for fold in np.unique(own_folds):
            own[own_folds == fold] = _ranks(probs[own_folds == fold], task)
    return _sum_to_one(ranks.mean(axis=0), task)


def _ranks(probs: np.ndarray, task: str) -> np.ndarray:
    """(n, K) ranks divided by how many were ranked, in (0, 1]."""
    if task == "multiclass":
        return rankdata(probs, axis=None).reshape(probs.shape) / probs.size
    return rankdata(probs, axis=0) / len(probs)


def power_mean_blend(members: np.ndarray, folds: np.ndarray | None = None, task: str = "multilabel") -> np.ndarray:
    """(N, K) root of the mean of squares: a member that is sure of a finding counts more than one that sees none."""
    return _sum_to_one(np.mean(np.power(members, POWER, dtype=np.float64), axis=0) ** (1 / POWER), task)


def logit_mean_blend(members: np.ndarray, folds: np.ndarray | None = None, task: str = "multilabel") -> np.ndarray:
    """(N, K) mean of logits, as a probability: the normalised geometric mean, in which a sure member counts more.

    Multiclass: the mean of log-probabilities, every row of their exponentials divided by its sum.
    """
    return from_logits(to_logits(members, task).mean(axis=0), task)


def to_logits(probs: np.ndarray, task: str) -> np.ndarray:
    """Logits of probabilities, of their logarithms for multiclass; finite, because 0 and 1 are clipped by CLIP."""
    return logits_of(probs, task, CLIP)


def from_logits(logits: np.ndarray, task: str) -> np.ndarray:
    """Probabilities of what `to_logits` gave."""
    return softmax(logits, axis=-1) if task == "multiclass" else expit(logits)


def _sum_to_one(values: np.ndarray, task: str) -> np.ndarray:
    return values / values.sum(axis=1, keepdims=True) if task == "multiclass" else values


# ---- fitted


def weighted_mean(weights: np.ndarray, members: np.ndarray) -> np.ndarray:
    """(N, K) sum of weights (M,) times members. Added up one by one: BLAS may give equal rows unequal last bits, which
    breaks the ties of black images, that all have their fold's prior.
    """
    total = np.zeros(members.shape[1:])
    for weight, member in zip(weights, members, strict=True):
        total += weight * member
    return total


def fit_blend(method: str, members: np.ndarray, targets: np.ndarray, task: str, metric: str) -> Blend:
    """One of METHODS fitted on these rows; the same rows give the same blend.

    "greedy" and "weights" look for what is best by the competition's metric, by log loss where the metric is of
    decisions: those would need thresholds too, and move in steps. "stacking" always maximises the likelihood.
    Where the rows say nothing, because every label lacks positives or negatives, all weights are equal.
    """
    if method in UNFITTED:
        return Blend(method)
    if method == "stacking":
        return fit_stacking(members, targets, task)
    if undefined_labels(targets).all():
        return Blend(method, np.full(len(members), 1 / len(members)))
    metric = metric if METRICS[metric].uses == "probs" else "log_loss"
    return Blend(method, FITTED[method](members, targets, task, metric))


def crossfit_blend(method: str, members: np.ndarray, targets: np.ndarray, folds: np.ndarray, task: str, metric: str,
                   member_folds: np.ndarray | None = None) -> np.ndarray:
    """(N, K) each fold blended by what was fitted on the other folds only; `member_folds`: those of ranks, if others.

    folds: (N,), with every group whole in one of them. Its score has one bias, which all stacking on
    out-of-fold predictions shares: the members' models that predicted the other folds were trained on this one.
    """
    if method in UNFITTED:
        return Blend(method).apply(members, folds if member_folds is None else member_folds, task)
    numbers = np.unique(folds)
    fits = [fit_blend(method, members[:, folds != fold], targets[folds != fold], task, metric) for fold in numbers]
    if method == "stacking":
        fits = _on_one_level(fits, members, task)
    blended = np.empty(members.shape[1:])
    for fold, fit in zip(numbers, fits, strict=True):
        blended[folds == fold] = fit.apply(members[:, folds == fold], None, task)
    return blended


def _on_one_level(fits: list[Blend], members: np.ndarray, task: str) -> list[Blend]:
    """Stackings with intercepts such that all folds' logits of all rows have the same mean, that of all fits.

    Where a fold has more positives than the others, these have fewer, and so has the intercept that is fitted on them:
    all images of the fold would be ranked too low beside those of other folds, which costs AUC though no image of the
    test part, blended by one fit, is ranked so. The level that all share is one number a label and ranks nothing.
    """
    means = to_logits(members, task).mean(axis=1)
    levels = np.array([np.einsum("mj,kmj->k", means, fit.coefficients) + fit.intercepts for fit in fits])
    return [replace(fit, intercepts=fit.intercepts + levels.mean(axis=0) - level)
            for fit, level in zip(fits, levels, strict=True)]


def select_greedily(members: np.ndarray, targets: np.ndarray, task: str, metric: str) -> np.ndarray:
    """(M,) weights by greedy selection with replacement, the mean of BAGS selections, each from half of the members.

    Bags look at 2 members at least. Equal draws are selected from once. Source: Caruana, Niculescu-Mizil, Crew & Ksikes
    2004, Ensemble selection from libraries of models, sections 2.1 to 2.3, https://doi.org/10.1145/1015330.1015432
    """
    members, quality = _searched(members, targets, task, metric)
    rng, size = np.random.default_rng(0), max(2, -(-len(members) // 2))
    drawn = [np.sort(rng.permutation(len(members))[:size]) for _ in range(BAGS)]
    weights = np.zeros(len(members))
    for bag, times in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        counts = greedy_counts(members[bag], quality, ROUNDS)
        weights[bag] += times * counts / counts.sum()
    return weights / weights.sum()


def greedy_counts(members: np.ndarray, quality: Callable[[np.ndarray], float], rounds: int) -> np.ndarray:
    """(M,) how often each member is in the mean that is best by `quality` (greater is better) on the greedy path.

    The path starts with the best n members, n being what is best (the paper's sorted initialisation); then, `rounds`
    times, the member that makes the mean best is added, whether it is in already or not. Of equals the first is taken.
    """
    order = np.argsort([-quality(member) for member in members], kind="stable")
    starts = [quality(members[order[:n]].mean(axis=0)) for n in range(1, len(members) + 1)]
    counts = np.zeros(len(members), dtype=int)
    counts[order[:np.argmax(starts) + 1]] = 1
    best, best_counts = max(starts), counts.copy()
    total = weighted_mean(counts, members)
    for _ in range(rounds):
        tried = [quality((total + member) / (counts.sum() + 1)) for member in members]
        added = int(np.argmax(tried))
        counts[added] += 1
        total = total + members[added]
        if tried[added] > best:
            best, best_counts = tried[added], counts.copy()
    return best_counts


def optimise_weights(members: np.ndarray, targets: np.ndarray, task: str, metric: str) -> np.ndarray:
    """(M,) weights, none negative, their sum 1, that are best on these rows.

    Log loss is convex in them: SLSQP finds the one minimum. From there another metric is climbed by moving weight to
    or from one member at a time, in ever smaller steps (STEPS): AUC is flat between its jumps, so there is no gradient
    to follow, and a smooth stand-in over all pairs would cost N squared for what log loss comes near to anyway.
    """
    weights = _least_log_loss(members, targets, task)
    if metric == "log_loss":
        return weights
    members, quality = _searched(members, targets, task, metric)
    best = quality(weighted_mean(weights, members))
    for step in STEPS:
        for share in (step, -step):
            for m in range(len(members)):
                moved = weights * (1 - share)
                moved[m] = max(0.0, moved[m] + share)
                if not moved.sum():
                    continue
                moved /= moved.sum()
                if (reached := quality(weighted_mean(moved, members))) > best:
                    weights, best = moved, reached
    return weights


def _least_log_loss(members: np.ndarray, targets: np.ndarray, task: str) -> np.ndarray:
    ones, zeros = cell_weights(targets, task)
    ones_at, zeros_at = (members[:, cells > 0] for cells in (ones, zeros))  # (M, cells): all else counts nothing
    ones, zeros = ones[ones > 0], zeros[zeros > 0]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        hit, miss = (np.clip(weights @ at, CLIP, None) for at in (ones_at, 1 - zeros_at))
        value = -(ones @ np.log(hit) + zeros @ np.log(miss))
        return value, -(ones_at @ (ones / hit) + (1 - zeros_at) @ (zeros / miss))

    count = len(members)
    found = minimize(loss, np.full(count, 1 / count), jac=True, method="SLSQP", bounds=[(0, 1)] * count,
                     constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1,
                                  "jac": lambda weights: np.ones(count)}, options={"maxiter": 500, "ftol": 1e-10})
    weights = np.clip(found.x, 0, None)
    weights[weights < 1e-9] = 0
    return weights / weights.sum()


def cell_weights(targets: np.ndarray, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Twice (N, K): how much a cell counts in the mean log loss where it is 1, and where it is 0; each label alike.

    Multiclass: the true classes of complete rows, no zeros. Labels of one class count nothing, as in `metrics`.
    """
    known = ~np.isnan(targets)
    if task == "multiclass":
        known = known & known.all(axis=1, keepdims=True)
        ones = known * (targets == 1)
        return ones / max(1, ones.sum()), np.zeros(targets.shape)
    known = known & ~undefined_labels(targets)
    share = known / np.maximum(1, known.sum(axis=0)) / max(1, known.any(axis=0).sum())
    return share * (targets == 1), share * (targets == 0)


def _searched(members: np.ndarray, targets: np.ndarray, task: str,
              metric: str) -> tuple[np.ndarray, Callable[[np.ndarray], float]]:
    """The members at the rows that are searched, and what probabilities (n, K) are worth there; greater is better."""
    if len(targets) > FITTED_ROWS:
        rows = np.sort(np.random.default_rng(0).permutation(len(targets))[:FITTED_ROWS])
        members, targets = members[:, rows], targets[rows]
    return members, quality_of(metric, targets, task)


def quality_of(metric: str, targets: np.ndarray, task: str) -> Callable[[np.ndarray], float]:
    """probs (n, K) -> the metric, or minus it where less is better. AUC and log loss as in `metrics`, but faster."""
    if metric == "roc_auc":
        return _auc_of(targets)
    if metric == "log_loss":
        ones, zeros = cell_weights(targets, task)

        def minus_log_loss(probs: np.ndarray) -> float:
            probs = np.clip(_sum_to_one(probs, task), CLIP, 1 - CLIP)
            return float((ones * np.log(probs)).sum() + (zeros * np.log1p(-probs)).sum())
        return minus_log_loss
    return lambda probs: METRICS[metric].sign * METRICS[metric].score(targets, probs, task)


def _auc_of(targets: np.ndarray) -> Callable[[np.ndarray], float]:
    """AUC as the share of (positive, negative) pairs in the right order, ties counted half; mean of defined labels."""
    labels = [(k, np.flatnonzero(targets[:, k] == 1), np.flatnonzero(targets[:, k] == 0))
              for k in np.flatnonzero(~undefined_labels(targets))]

    def auc(probs: np.ndarray) -> float:
        total = 0.0
        for k, positives, negatives in labels:
            below, of = np.sort(probs[negatives, k]), probs[positives, k]
            won = below.searchsorted(of, "left").sum() + below.searchsorted(of, "right").sum()
            total += won / (2 * len(positives) * len(negatives))
        return total / len(labels)
    return auc


def fit_stacking(members: np.ndarray, targets: np.ndarray, task: str) -> Blend:
    """Logistic regression of every label on all members' logits of all labels; multinomial for multiclass.

    The logits are standardised for the penalty (STRENGTH) to mean the same for each, and the coefficients are given for
    the raw ones. A label whose cells are of one class gets the mean of its own logits; so does multiclass altogether
    where a class does not occur.
    """
    from sklearn.linear_model import LogisticRegression

    logits = to_logits(members, task)
    count, _, labels = logits.shape
    inputs = logits.transpose(1, 0, 2).reshape(len(targets), count * labels)
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0)
    scale[scale < CLIP] = 1  # a constant member adds nothing and takes no coefficient
    inputs = (inputs - centre) / scale
    coefficients = np.stack([np.tile(row, count) / count for row in np.eye(labels)])  # (K, M K), the mean of logits
    intercepts = np.zeros(labels)
    if task == "multiclass":
        rows = ~np.isnan(targets).any(axis=1)
        classes = targets[rows].argmax(axis=1)
        if len(np.unique(classes)) == labels:
            model = LogisticRegression(C=STRENGTH, tol=1e-8, max_iter=1000).fit(inputs[rows], classes)
            coefficients, intercepts = _unscaled(model, centre, scale)
            if labels == 2:  # scikit-learn then has coefficients of the second class only
                coefficients, intercepts = (np.concatenate([-part / 2, part / 2])
                                            for part in (coefficients, intercepts))
    else:
        for k in np.flatnonzero(~undefined_labels(targets)):
            rows = ~np.isnan(targets[:, k])
            model = LogisticRegression(C=STRENGTH, tol=1e-8, max_iter=1000).fit(inputs[rows], targets[rows, k])
            coefficients[[k]], intercepts[[k]] = _unscaled(model, centre, scale)
    return Blend("stacking", None, np.ascontiguousarray(coefficients).reshape(labels, count, labels), intercepts)


def _unscaled(model: object, centre: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (k, inputs) and intercepts (k,) for inputs that are not standardised."""
    coefficients = model.coef_ / scale
    return coefficients, model.intercept_ - coefficients @ centre


UNFITTED = {"mean": mean_blend, "rank_mean": rank_mean_blend, "power_mean": power_mean_blend,
           "logit_mean": logit_mean_blend}
FITTED = {"greedy": select_greedily, "weights": optimise_weights, "stacking": fit_stacking}
METHODS = (*UNFITTED, *FITTED)
