"""Heads that are fitted at once on frozen features: logistic regression, support vector machines, nearest cases.

Everything is fitted on the rows handed over, a fold's training rows, and what has to be chosen or calibrated there is
judged on inner folds of them that were left out of the fitting and share no group with it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import log_expit, logsumexp
from torch import Tensor, nn

from common.settings import Choice, read_value
from data.splitting import grouped_folds
from experiment import Experiment
from models.knn_head import SPACES, KNNHead
from models.svm_head import SVM, SupportVectors

INNER_FOLDS = 5
LOGISTIC_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # C, the inverse of the penalty, on standardised features
SVC_STRENGTHS = (0.1, 1.0, 10.0)  # C; 1, scikit-learn's own, is what 003 (see models/architectures.py) had
NEIGHBOURS = (1, 3, 5, 9, 15, 25, 41, 65, 101)  # k
QUERY_ROWS = 10_000  # rows whose neighbours are found to choose k and the space; of more rows, a random choice
QUERIES_AT_ONCE = 256  # of them, whose distances to all cases are in memory together
MAX_ITERATIONS = 1000
KERNEL_ROWS = 12_000  # so many rows have their whole kernel in memory, 1.2 GB; it is computed anew piece by piece above


@dataclass(frozen=True)
class Examples:
    """What heads are fitted to: a fold's n training rows."""

    features: np.ndarray  # (n, D) float32
    targets: np.ndarray   # (n, K) in [0, 1], NaN where nothing is stated; a soft target is part positive, part negative
    groups: np.ndarray    # (n,) str, never shared between inner folds
    counts: np.ndarray    # (n,) how often an epoch would show each
    weights: Tensor | None  # of the loss: None, (K,) of classes, or (2, K) of a label's negatives and positives


@dataclass(frozen=True)
class BinaryProblem:
    """One label, or all classes together, as a classifier takes it: m rows, each of one class and with a weight."""

    rows: np.ndarray     # (m,) int64, into the examples; one with a soft target is there once for each class
    classes: np.ndarray  # (m,) int64
    weights: np.ndarray  # (m,) above 0

    def only(self, chosen: np.ndarray) -> "BinaryProblem":
        """Some of its rows."""
        return BinaryProblem(self.rows[chosen], self.classes[chosen], self.weights[chosen])


# (what to fit, C, rows to predict (r,)) -> values (r, outputs)
Predict = Callable[[BinaryProblem, float, np.ndarray], np.ndarray]


def check_head_fit(experiment: Experiment) -> None:
    """Raises ValueError where a recipe asks for what a head that is fitted at once cannot have."""
    if not (fit := read_value("head_fit", experiment.head_fit, HEAD_FITS).choice).at_once:
        return
    wanted = {"augmentation": "none", "mix": "none", "loss": "cross_entropy", "label_smoothing": 0.0,
              "per_task": False, "head": "linear", "val_fraction": 0.0, "stages": (), "tta": ("identity",)}
    if not fit.weighted:
        wanted["loss_weights"] = "none"
    for name, value in wanted.items():
        if getattr(experiment, name) != value:
            raise ValueError(f"head_fit={experiment.head_fit} with {name}={getattr(experiment, name)}: the head is "
                             f"fitted at once, to features that are computed once; set {name}={value}, or "
                             "head_fit=gradient")


def fit_head(head_fit: str, examples: Examples, task: str, seed: int) -> nn.Module:
    """A head, features (B, D) to logits (B, K), fitted as a name in HEAD_FITS says."""
    parts = inner_folds(examples.targets, examples.groups, seed)
    return read_value("head_fit", head_fit, HEAD_FITS)(examples, task, parts)


def inner_folds(targets: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """(n,) the inner fold of every row, 0 to 4 or fewer: whole groups, labels (n, K) spread evenly.

    Raises ValueError where all rows are of one group.
    """
    count = len(np.unique(groups))
    if count < 2:
        raise ValueError("all training images are of one group, so nothing can be chosen by images of another; set "
                         "head_fit=gradient")
    marks = np.where(np.isnan(targets), np.nan, targets >= 0.5)
    return grouped_folds(marks, groups, min(INNER_FOLDS, count), seed)


# ---- logistic regression


def fit_logistic(examples: Examples, task: str, parts: np.ndarray) -> nn.Linear:
    """Logistic regression with a squared penalty, multinomial for classes, as a linear layer.

    The penalty is on weights of standardised features; the layer has them for the features as they are. It is one for
    all labels, that with the least log loss on the inner folds, each predicted by a regression on the others: chosen
    for every label by itself it followed the noise of the rare ones.
    """
    from sklearn.preprocessing import StandardScaler

    outputs = examples.targets.shape[1] if task == "multiclass" else 1
    features = examples.features.astype(np.float64)
    problems = _binary_problems(examples, together=task == "multiclass")

    def prepare(inside: np.ndarray) -> Predict:
        # float32 is exact enough to choose by, and nearly twice as fast
        inputs = StandardScaler().fit(features[inside]).transform(features).astype(np.float32)

        def predict(problem: BinaryProblem, strength: float, rows: np.ndarray) -> np.ndarray:
            weight, bias = _regress(inputs, problem, strength, outputs)
            return inputs[rows] @ weight.T + bias

        return predict

    values = _held_out_values(problems, parts, LOGISTIC_STRENGTHS, outputs, prepare)
    scaler = StandardScaler()
    inputs = scaler.fit_transform(features)
    best = LOGISTIC_STRENGTHS[_least(problems, values)]
    fitted = [_regress(inputs, problem, best, outputs) for problem in problems]
    weight, bias = (np.concatenate(each) for each in zip(*fitted, strict=True))
    return _as_layer(weight / scaler.scale_, bias - (weight / scaler.scale_) @ scaler.mean_)


def _regress(inputs: np.ndarray, problem: BinaryProblem, strength: float,
             outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (outputs, D) and biases (outputs,); one output is a label's logit, several are classes."""
    from sklearn.linear_model import LogisticRegression

    unseen = _smoothed_logit(problem) if outputs == 1 else -np.log(1 + problem.weights.sum())
    weight, bias = np.zeros((outputs, inputs.shape[1])), np.full(outputs, unseen)
    there = np.unique(problem.classes)
    if len(there) > 1:
        model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
        model.fit(inputs[problem.rows], problem.classes, sample_weight=problem.weights)
        if outputs == 1:
            return model.coef_, model.intercept_
        found = there[1:] if len(there) == 2 else there  # of two classes the first one's logit is 0
        bias[there] = 0
        weight[found], bias[found] = model.coef_, model.intercept_
    elif outputs > 1:
        bias[there] = 0
    return weight, bias


def _as_layer(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], len(weight))
    layer.load_state_dict({"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()})
    return layer


# ---- support vector machines


def fit_machines(examples: Examples, task: str, parts: np.ndarray) -> SupportVectors:
    """A support vector machine a label, or a class against all others, its values turned into logits by a sigmoid.

    As 003 had them, scikit-learn's SVC(class_weight="balanced") with its own width of the Gaussian, 1 / (D variance of
    the features), on features that are not standardised: with ImageNet features and C = 1 AUCs were higher by 0.01 to
    0.02. C and the sigmoid are those with the least log loss on the inner folds, each judged by machines that were
    fitted on the others: on its own training rows a machine looks surer than it is (Platt 1999).
    """
    from sklearn.metrics.pairwise import rbf_kernel
    from sklearn.svm import SVC

    problems = _binary_problems(examples, together=False)
    gamma = 1 / (examples.features.shape[1] * examples.features.var(dtype=np.float64))
    kernel = None  # or computed once for all labels, inner folds and strengths
    if len(examples.features) <= KERNEL_ROWS:
        kernel = rbf_kernel(examples.features - examples.features.mean(axis=0, dtype=np.float64), gamma=gamma)

    def between(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        return examples.features[rows] if kernel is None else kernel[np.ix_(rows, others)]

    def fit(problem: BinaryProblem, strength: float):
        machine = SVC(C=strength, kernel="rbf" if kernel is None else "precomputed", gamma=gamma, cache_size=500)
        return machine.fit(between(problem.rows, problem.rows), problem.classes, sample_weight=_balanced(problem))

    def predict(problem: BinaryProblem, strength: float, rows: np.ndarray) -> np.ndarray:
        return fit(problem, strength).decision_function(between(rows, problem.rows))[:, None]

    values = _held_out_values(problems, parts, SVC_STRENGTHS, 1, lambda inside: predict)
    machines = []
    for problem, value in zip(problems, values, strict=True):
        lines = np.array([fit_sigmoid(each[:, 0], problem) for each in value])  # (strengths, slope and offset)
        best = _least([problem], [value * lines[:, None, :1] + lines[:, None, 1:]])
        machines.append(_as_machine(problem, fit, SVC_STRENGTHS[best], *lines[best].tolist()))
    return SupportVectors.from_machines(machines, torch.from_numpy(examples.features), gamma, task == "multiclass")


def _as_machine(problem: BinaryProblem, fit: Callable, strength: float, slope: float, offset: float) -> SVM:
    if slope == 0:
        return SVM(torch.zeros(0, dtype=torch.int64), torch.zeros(0), 0.0, 0.0, offset)
    fitted = fit(problem, strength)
    return SVM(torch.from_numpy(problem.rows[fitted.support_]), torch.from_numpy(fitted.dual_coef_[0]),
                   float(fitted.intercept_[0]), slope, offset)


def fit_sigmoid(values: np.ndarray, problem: BinaryProblem) -> tuple[float, float]:
    """Slope and offset that turn a machine's values (m,) into logits; NaN values are left out.

    Fitted to (n + 1) / (n + 2) for the n present and 1 / (n + 2) for the n absent, which keeps it from being sure of
    what it saw. The slope is 0, and the offset the label's prevalence, where values of only one kind are there; it is
    never below 0, since values that tell less than nothing are not turned around.
    Source: Platt 1999, Probabilistic outputs for support vector machines, section 2.2.
    """
    known = ~np.isnan(values)
    values, classes, weights = values[known], problem.classes[known], problem.weights[known]
    if len(np.unique(classes)) < 2:
        return 0.0, _smoothed_logit(problem)
    from sklearn.linear_model import LogisticRegression

    absent, present = (weights[classes == each].sum() for each in (0, 1))
    targets = np.where(classes == 1, (present + 1) / (present + 2), 1 / (absent + 2))
    scale = np.abs(values).max()  # so that one step is as large in either direction
    weights = np.concatenate([weights * (1 - targets), weights * targets])
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
    model.fit(np.tile(values / scale, 2)[:, None], np.repeat([0, 1], len(values)), weights)
    if model.coef_[0, 0] > 0:
        return float(model.coef_[0, 0] / scale), float(model.intercept_[0])
    absent, present = np.split(weights, 2)
    return 0.0, float(np.log(present.sum() / absent.sum()))


def _balanced(problem: BinaryProblem) -> np.ndarray:
    """(m,) the weights, scaled so that both classes have the same sum: scikit-learn's class_weight="balanced"."""
    sums = np.bincount(problem.classes, problem.weights)
    return problem.weights * (sums.sum() / (len(sums) * sums))[problem.classes]


# ---- nearest cases


def fit_nearest(examples: Examples, task: str, parts: np.ndarray) -> KNNHead:
    """The k nearest cases. k, of NEIGHBOURS, and the space, of SPACES, are one for all labels.

    They are those with the least log loss on the inner folds, each compared with the others: no neighbour is
    of the image's own group there.
    """
    features, votes = torch.from_numpy(examples.features), _votes(examples, task)
    queried = np.zeros(len(parts), bool)
    queried[np.random.default_rng(0).permutation(len(parts))[:QUERY_ROWS]] = True
    losses = {}
    for space in SPACES:
        shares = torch.empty((len(NEIGHBOURS), *votes.shape))
        for part in np.unique(parts):
            inside = torch.from_numpy(parts != part)
            head = KNNHead.of_cases(features[inside], votes[inside], space, 1, task == "multiclass")
            for rows in torch.from_numpy(np.flatnonzero(queried & (parts == part))).split(QUERIES_AT_ONCE):
                shares[:, rows] = head.shares(features[rows], NEIGHBOURS)
        mean = _share_losses(shares[:, queried], votes[queried])
        losses |= {(space, k): float(loss) for k, loss in zip(NEIGHBOURS, mean, strict=True)}
    space, k = min(losses, key=losses.get)
    return KNNHead.of_cases(features, votes, space, k, task == "multiclass")


def _votes(examples: Examples, task: str) -> Tensor:
    """(n, Q, C) float32 the weight with which each row speaks for each class, of one problem or of one a label."""
    targets = torch.from_numpy(examples.targets).float()
    counts = torch.from_numpy(np.asarray(examples.counts)).float()[:, None, None]
    shares = targets[:, None] if task == "multiclass" else torch.stack([1 - targets, targets], dim=2)
    weights = 1.0 if examples.weights is None else (
        examples.weights if task == "multiclass" else examples.weights.T.cpu()).float()
    return shares.nan_to_num(nan=0.0) * weights * counts


def _share_losses(shares: Tensor, votes: Tensor) -> Tensor:
    """(ks,) the log loss of shares (ks, m, Q, C), the mean over the problems that have votes."""
    sums = votes.sum(dim=(0, 2))
    losses = -(votes * shares.log()).sum(dim=(1, 3))[:, sums > 0] / sums[sums > 0]
    return losses.mean(dim=1)


# ---- all


def _binary_problems(examples: Examples, together: bool) -> list[BinaryProblem]:
    """A problem a label, or one about all classes together; cells that are not stated are left out."""
    targets = examples.targets.astype(np.float64)
    if together:
        of_classes = None if examples.weights is None else examples.weights.numpy()
        return [_problem(targets, examples.counts, of_classes)]
    return [_problem(np.column_stack([1 - targets[:, k], targets[:, k]]), examples.counts,
                      None if examples.weights is None else examples.weights[:, k].numpy())
            for k in range(targets.shape[1])]


def _problem(shares: np.ndarray, counts: np.ndarray, of_classes: np.ndarray | None) -> BinaryProblem:
    """shares: (n, C) share of each class in a row, NaN where the target is missing."""
    weights = np.nan_to_num(shares) * counts[:, None] * (1 if of_classes is None else of_classes)
    rows, classes = np.nonzero(weights > 0)
    return BinaryProblem(rows, classes, weights[rows, classes])


def _held_out_values(problems: list[BinaryProblem], parts: np.ndarray, strengths: tuple[float, ...], outputs: int,
                     prepare: Callable[[np.ndarray], Predict]) -> list[np.ndarray]:
    """For each problem (strengths, m, outputs): every row as predicted by what was fitted on the other inner folds.

    NaN where a class is in no other part, so that nothing could be fitted. prepare: gets (n,) bool, which rows the
    next fits are made of.
    """
    values = [np.full((len(strengths), len(problem.rows), outputs), np.nan) for problem in problems]
    for part in np.unique(parts):
        predict = prepare(parts != part)
        for problem, value in zip(problems, values, strict=True):
            inside = parts[problem.rows] != part
            classes = np.unique(problem.classes)
            if inside.all() or len(classes) < 2 or len(np.unique(problem.classes[inside])) < len(classes):
                continue
            for number, strength in enumerate(strengths):
                value[number, ~inside] = predict(problem.only(inside), strength, problem.rows[~inside])
    return values


def _log_loss(logits: np.ndarray, problem: BinaryProblem) -> float:
    """The weighted mean over rows whose logits (m, outputs) are known; NaN where none is."""
    known = ~np.isnan(logits).any(axis=1)
    if not known.any():
        return float("nan")
    logits, classes, weights = logits[known], problem.classes[known], problem.weights[known]
    if logits.shape[1] == 1:
        losses = -log_expit(np.where(classes == 1, logits[:, 0], -logits[:, 0]))
    else:
        losses = logsumexp(logits, axis=1) - logits[np.arange(len(logits)), classes]
    return float(np.average(losses, weights=weights))


def _least(problems: list[BinaryProblem], logits: list[np.ndarray]) -> int:
    """Which of the strengths has the least loss, the mean over problems; the middle one where nothing is known.

    logits: for each problem (strengths, m, outputs).
    """
    losses = np.array([[_log_loss(each, problem) for each in value]
                       for problem, value in zip(problems, logits, strict=True)])
    known = losses[~np.isnan(losses).any(axis=1)]
    return int(known.mean(axis=0).argmin()) if len(known) else losses.shape[1] // 2


def _smoothed_logit(problem: BinaryProblem) -> float:
    """Of the share of class 1, with one row of either kind added."""
    absent, present = (problem.weights[problem.classes == each].sum() for each in (0, 1))
    return float(np.log((present + 1) / (absent + 1)))


@dataclass(frozen=True, kw_only=True)
class HeadFit(Choice):
    """How a head's weights are found. An entry of HEAD_FITS.

    build: (examples, task, inner fold of every example (n,)) -> a head, features (B, D) to logits (B, K).
    at_once: False where the head is trained by gradient steps and not fitted to features.
    weighted: False where it balances the two classes itself and takes no loss weights.
    """

    at_once: bool = True
    weighted: bool = True


HEAD_FITS: dict[str, HeadFit] = {
    "gradient": HeadFit(build=lambda examples, task, parts: None, at_once=False),
    "logistic": HeadFit(build=fit_logistic),
    "svc": HeadFit(build=fit_machines, weighted=False),  # it balances the classes; the sigmoid corrects it
    "knn": HeadFit(build=fit_nearest),
}
