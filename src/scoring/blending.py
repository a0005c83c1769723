"""Blends of several models' probabilities, one entry each in METHODS: means, weights that are searched for, stacking.

To add a method, write one entry. blend.py tries it with the others, and writes it by name or if its gain is credible.

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
from scoring.metrics import METRICS, check_name, undefined_labels

POWER = 2.0  # of the power mean; 1 is the mean, towards 0 the geometric one
CLIP = 1e-6  # probabilities are clipped to [CLIP, 1 - CLIP], because 0 and 1 have no logit
BAGS, ROUNDS = 20, 20  # of the greedy selection; 20 bags as in the paper
STRENGTH = 0.03  # C of the stacking on standardised logits, which are highly correlated; 0.01 to 0.1 differ little
FITTED_ROWS = 10_000  # at most so many rows, drawn by chance, are used to search weights: there are few of them
STEPS = (0.4, 0.2, 0.1, 0.05, 0.02)  # of the search for weights


@dataclass(frozen=True)
class Method:
    """One entry of METHODS; it has either `blend`, or `fit`, which returns the fields of a Blend."""

    about: str
    blend: Callable[[np.ndarray, np.ndarray | None, str], np.ndarray] | None = None  # (members, folds, task) -> (N, K)
    fit: Callable[[np.ndarray, np.ndarray, str, str], dict] | None = None  # (members, targets, task, metric)


@dataclass(frozen=True)
class Blend:
    """A method with its fitted parameters: weights of members, or coefficients of all members' logits of all labels."""

    method: str
    weights: np.ndarray | None = None  # (M,) not negative, their sum is 1
    coefficients: np.ndarray | None = None  # (K, M, K): of label k, over the members' logits of all labels
    intercepts: np.ndarray | None = None  # (K,)

    def apply(self, members: np.ndarray, folds: np.ndarray | None = None, task: str = "multilabel") -> np.ndarray:
        """(N, K) the blend of members (M, N, K). Only ranks use `folds`; see `rank_mean_blend`."""
        if self.weights is not None:
            return weighted_mean(self.weights, members)
        if self.coefficients is not None:
            logits = np.einsum("mnj,kmj->nk", logits_of(members, task, CLIP), self.coefficients) + self.intercepts
            return from_logits(logits, task)
        return METHODS[self.method].blend(members, folds, task)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The fitted parameters; none if the method has none."""
        return tuple(array for array in (self.weights, self.coefficients, self.intercepts) if array is not None)

    def to_json(self, members: Sequence[str], labels: Sequence[str]) -> dict:
        """The fitted parameters under the names of members and labels."""
        return {field: _by_name(getattr(self, field), *axes) for field, axes in _axes(members, labels).items()
                if getattr(self, field) is not None}


def from_json(method: str, record: dict, members: Sequence[str], labels: Sequence[str]) -> Blend:
    """The blend that `to_json` wrote. Raises ValueError if the method is unknown, or names are missing or unknown."""
    check_name("blending method", method, METHODS)
    return Blend(method, **{field: _to_array(record[field], *axes) for field, axes in _axes(members, labels).items()
                            if field in record})


def _axes(members: Sequence[str], labels: Sequence[str]) -> dict[str, tuple[Sequence[str], ...]]:
    """The names along the axes of each fitted array of a Blend."""
    return {"weights": (members,), "intercepts": (labels,), "coefficients": (labels, members, labels)}


def _by_name(array: np.ndarray, names: Sequence[str], *rest: Sequence[str]) -> dict:
    return {name: _by_name(part, *rest) if rest else float(part) for name, part in zip(names, array, strict=True)}


def _to_array(record: dict, names: Sequence[str], *rest: Sequence[str]) -> np.ndarray:
    if set(record) != set(names):
        raise ValueError(f"parameters are needed for {', '.join(names)}; found {', '.join(map(str, record)) or 'none'}")
    return np.array([_to_array(record[name], *rest) if rest else record[name] for name in names], dtype=np.float64)


# ---- methods without parameters


def mean_blend(members: np.ndarray, folds: np.ndarray | None = None, task: str = "multilabel") -> np.ndarray:
    """(N, K) mean of members (M, N, K); `folds` and `task` have no effect."""
    return np.mean(members, axis=0, dtype=np.float64)


def rank_mean_blend(members: np.ndarray, folds: np.ndarray | None = None, task: str = "multilabel") -> np.ndarray:
    """(N, K) mean over members (M, N, K) of each one's ranks, in (0, 1]; ties share their mean rank.

    A rank is divided by the number of rows, so 1 is the highest score. Ranks are no probabilities: a threshold for them
    must be fitted on them. Multiclass: ranks are taken over all K columns together, so that each member still decides
    for the same class in every row, and every row of the mean is divided by its sum.

    Parameters
    ----------
    folds : ranks are taken within each fold, because each fold's model has its own scale; (N,) for all members, or
        (M, N) if they are runs on several splits; None: over all rows
    """
    members = np.asarray(members)
    folds = np.broadcast_to(0 if folds is None else folds, members.shape[:2])
    ranks = np.empty(members.shape)
    for own, probs, own_folds in zip(ranks, members, folds, strict=True):
        for fold in np.unique(own_folds):
            own[own_folds == fold] = _ranks(probs[own_folds == fold], task)
    return _sum_to_one(ranks.mean(axis=0), task)


def _ranks(probs: np.ndarray, task: str) -> np.ndarray:
    """(n, K) ranks divided by their number, in (0, 1]."""
    if task == "multiclass":
        return rankdata(probs, axis=None).reshape(probs.shape) / probs.size
    return rankdata(probs, axis=0) / len(probs)


def power_mean_blend(members: np.ndarray, folds: np.ndarray | None = None, task: str = "multilabel") -> np.ndarray:
    """(N, K) root of the mean of squares: high probabilities count more than low ones."""
    return _sum_to_one(np.mean(np.power(members, POWER, dtype=np.float64), axis=0) ** (1 / POWER), task)


def logit_mean_blend(members: np.ndarray, folds: np.ndarray | None = None, task: str = "multilabel") -> np.ndarray:
    """(N, K) mean of logits, as a probability: the normalised geometric mean, in which confident members count more.

    Multiclass: the mean of log-probabilities, every row of their exponentials divided by its sum.
    """
    return from_logits(logits_of(members, task, CLIP).mean(axis=0), task)


def from_logits(logits: np.ndarray, task: str) -> np.ndarray:
    """The probabilities of logits, or for multiclass of log probabilities up to a constant."""
    return softmax(logits, axis=-1) if task == "multiclass" else expit(logits)


def _sum_to_one(values: np.ndarray, task: str) -> np.ndarray:
    return values / values.sum(axis=1, keepdims=True) if task == "multiclass" else values


# ---- fitted methods


def weighted_mean(weights: np.ndarray, members: np.ndarray) -> np.ndarray:
    """(N, K) sum of weights (M,) times members.

    Members are added one by one: with BLAS equal rows may differ in their last bits, which would rank constant images,
    whose predictions are tied, by chance.
    """
    total = np.zeros(members.shape[1:])
    for weight, member in zip(weights, members, strict=True):
        total += weight * member
    return total


def fit_blend(method: str, members: np.ndarray, targets: np.ndarray, task: str, metric: str) -> Blend:
    """One of METHODS fitted on these rows; the same rows give the same blend.

    "greedy" and "weights" optimise the competition's metric, or log loss if the metric takes decisions, which would
    need thresholds too and change in steps. "stacking" always maximises the likelihood. All weights are equal if every
    label lacks positives or negatives.
    """
    entry = METHODS[method]
    return Blend(method, **entry.fit(members, targets, task, metric)) if entry.fit else Blend(method)


def _fit_weights(search: Callable[..., np.ndarray]) -> Callable[..., dict]:
    """The `fit` of a method that searches the members' weights for a metric of probabilities."""
    def fit(members: np.ndarray, targets: np.ndarray, task: str, metric: str) -> dict:
        if undefined_labels(targets).all():
            return {"weights": np.full(len(members), 1 / len(members))}
        return {"weights": search(members, targets, task, metric if METRICS[metric].uses == "probs" else "log_loss")}
    return fit


def crossfit_blend(method: str, members: np.ndarray, targets: np.ndarray, folds: np.ndarray, task: str, metric: str,
                   member_folds: np.ndarray | None = None) -> np.ndarray:
    """(N, K) the blend of each fold by parameters that were fitted on the other folds only.

    The score has one bias, which all stacking on out-of-fold predictions has: the members' models that predicted the
    other folds were trained on this one.

    Parameters
    ----------
    folds : (N,), every group lies in one of them
    member_folds : (N,) or (M, N) the folds within which ranks are taken, if not `folds`
    """
    if METHODS[method].fit is None:
        return Blend(method).apply(members, folds if member_folds is None else member_folds, task)
    numbers = np.unique(folds)
    fits = [fit_blend(method, members[:, folds != fold], targets[folds != fold], task, metric) for fold in numbers]
    if fits[0].coefficients is not None:
        fits = _on_one_level(fits, members, task)
    blended = np.empty(members.shape[1:])
    for fold, fit in zip(numbers, fits, strict=True):
        blended[folds == fold] = fit.apply(members[:, folds == fold], None, task)
    return blended


def _on_one_level(fits: list[Blend], members: np.ndarray, task: str) -> list[Blend]:
    """Stackings whose intercepts are changed so that the mean logit of all rows is the same for every fold's fit.

    A fold with more positives than the others leaves fewer for its own fit, whose intercept is lower. All images of the
    fold would be ranked too low beside those of other folds, which lowers AUC, although all images of the test part are
    blended by one fit. The common level is one number per label and changes no order within a fold.
    """
    means = logits_of(members, task, CLIP).mean(axis=1)
    levels = np.array([np.einsum("mj,kmj->k", means, fit.coefficients) + fit.intercepts for fit in fits])
    return [replace(fit, intercepts=fit.intercepts + levels.mean(axis=0) - level)
            for fit, level in zip(fits, levels, strict=True)]


def select_greedily(members: np.ndarray, targets: np.ndarray, task: str, metric: str) -> np.ndarray:
    """(M,) weights by greedy selection with replacement, the mean of BAGS selections, each from half of the members.

    A bag has at least 2 members. Equal bags are computed once. Source: Caruana, Niculescu-Mizil, Crew & Ksikes
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

    The path starts with the mean of the best n members for the best n (the paper's sorted initialisation). Then,
    `rounds` times, the member that improves the mean most is added, also repeatedly. Ties take the first member.
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
    """(M,) the weights, not negative and with the sum 1, that are best on these rows.

    Log loss is convex in them, so SLSQP finds its minimum. For another metric the search continues from there by
    coordinate ascent: it moves weight to or from one member at a time, in decreasing STEPS. AUC is piecewise constant
    and has no gradient; a smooth substitute over all pairs would cost N squared for little gain over log loss.
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
    ones_at, zeros_at = (members[:, cells > 0] for cells in (ones, zeros))  # (M, cells) those with a weight
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
    """Two arrays (N, K): the weight of a cell in the mean log loss if it is 1, and if it is 0.

    All labels have equal weight, those of one class none, as in `metrics`. Multiclass: only the true classes of
    complete rows have a weight.
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
    """The members at FITTED_ROWS rows at most, and the quality of probabilities (n, K) there; greater is better."""
    if len(targets) > FITTED_ROWS:
        rows = np.sort(np.random.default_rng(0).permutation(len(targets))[:FITTED_ROWS])
        members, targets = members[:, rows], targets[rows]
    return members, quality_of(metric, targets, task)


def quality_of(metric: str, targets: np.ndarray, task: str) -> Callable[[np.ndarray], float]:
    """A function from probs (n, K) to the metric, or minus it if less is better.

    AUC and log loss are those of `metrics`, computed faster for many trials on the same rows.
    """
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


def fit_stacking(members: np.ndarray, targets: np.ndarray, task: str, metric: str) -> dict[str, np.ndarray]:
    """Logistic regression of every label on all members' logits of all labels; multinomial for multiclass.

    The logits are standardised, so that the penalty (STRENGTH) is equal for all; the coefficients are those of the raw
    logits. A label whose cells are of one class gets the mean of its own logits; so do all classes of multiclass if one
    does not occur.
    """
    from sklearn.linear_model import LogisticRegression

    logits = logits_of(members, task, CLIP)
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
    return {"coefficients": np.ascontiguousarray(coefficients).reshape(labels, count, labels), "intercepts": intercepts}


def _unscaled(model: object, centre: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (k, inputs) and intercepts (k,) for inputs that are not standardised."""
    coefficients = model.coef_ / scale
    return coefficients, model.intercept_ - coefficients @ centre


METHODS = {
    "mean": Method("mean of probabilities", blend=mean_blend),
    "rank_mean": Method("mean of ranks within each fold", blend=rank_mean_blend),
    "power_mean": Method("root of the mean square", blend=power_mean_blend),
    "logit_mean": Method("mean of logits", blend=logit_mean_blend),
    "greedy": Method("greedy selection with replacement, bagged", fit=_fit_weights(select_greedily)),
    "weights": Method("the best weights, not negative", fit=_fit_weights(optimise_weights)),
    "stacking": Method("logistic regression on all members' logits", fit=fit_stacking),
}
