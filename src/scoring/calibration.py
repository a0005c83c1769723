"""Calibration of probabilities: temperature and Platt scaling, calibration error, reliability diagrams."""

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

EPSILON = 1e-7             # a probability of exactly 0 or 1 has no logit; float32 has no number nearer to 1
TEMPERATURES = (0.05, 20)  # bounds of the search
BINS = 15


def logits_of(probs: np.ndarray, task: str, epsilon: float = EPSILON) -> np.ndarray:
    """(..., K) logits of probabilities clipped to [epsilon, 1 - epsilon]; for multiclass log probabilities."""
    clipped = np.clip(np.asarray(probs, dtype=np.float64), epsilon, 1 - epsilon)
    return np.log(clipped) if task == "multiclass" else logit(clipped)


def fit_temperatures(targets: np.ndarray, probs: np.ndarray, task: str) -> np.ndarray:
    """(K,) the temperature of each label, by which logits are divided for the least log loss; (1,) for multiclass.

    targets: (N, K) 0, 1 or NaN (left out). The temperature is 1 if a label has one class only. Scaling changes neither
    the order of images nor a multiclass decision.
    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599 (section 4.2)
    """
    logits = logits_of(probs, task)
    if task == "multiclass":
        rows = ~np.isnan(targets).any(axis=1)
        return np.array([_temperature(lambda t: -(targets[rows] * log_softmax(logits[rows] / t, axis=1)).sum())
                         if rows.any() else 1.0])
    temperatures = np.ones(targets.shape[1])
    for k, known in enumerate(_certain_rows(targets)):
        if known is not None:
            signed = np.where(targets[known, k] == 1, logits[known, k], -logits[known, k])
            temperatures[k] = _temperature(lambda t, signed=signed: np.logaddexp(0, -signed / t).sum())
    return temperatures


def apply_temperatures(probs: np.ndarray, temperatures: np.ndarray, task: str) -> np.ndarray:
    """(N, K) probabilities whose logits are divided by the temperatures."""
    logits = logits_of(probs, task) / temperatures
    return softmax(logits, axis=1) if task == "multiclass" else expit(logits)


def fit_platt(targets: np.ndarray, probs: np.ndarray, row_weights: np.ndarray | None = None) -> np.ndarray:
    """(K, 2) slope and offset of every label's logits for the least log loss; (1, 0) if a label has one class only.

    targets: (N, K) 0, 1 or NaN (left out);  row_weights: (N,) how often a row counts. Instead of 1 and 0 the targets
    are (P + 1) / (P + 2) and 1 / (N + 2) for P positives and N negatives, so that no probability becomes 0 or 1. The
    slope is not negative, so calibration never reverses the order.
    Source: Platt 1999, Probabilistic Outputs for Support Vector Machines, in Advances in Large Margin Classifiers
    """
    logits, lines = logits_of(probs, "multilabel"), np.tile([1.0, 0.0], (targets.shape[1], 1))
    weights = np.ones(len(targets)) if row_weights is None else row_weights
    for k, known in enumerate(_certain_rows(np.where(weights[:, None] > 0, targets, np.nan))):
        if known is not None:
            lines[k] = _platt_line(targets[known, k], logits[known, k], weights[known])
    return lines


def apply_platt(probs: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """(N, K) probabilities whose logits are transformed by the slopes and offsets `lines` (K, 2)."""
    return expit(logits_of(probs, "multilabel") * lines[:, 0] + lines[:, 1])


def calibration_errors(targets: np.ndarray, probs: np.ndarray, bins: int = BINS) -> np.ndarray:
    """(K,) expected calibration error of every label, in [0, 1]; NaN if it has no certain cell.

    The mean over cells of |share of positives - mean probability| of the cell's bin, in bins of equal numbers of cells.
    Classes are taken one by one, each against the rest. With few cells even perfect probabilities are above 0.
    Source: Naeini et al. 2015, https://doi.org/10.1609/aaai.v29i1.9602; equal numbers: Nixon et al. 2019,
    https://arxiv.org/abs/1904.01685
    """
    errors = np.full(targets.shape[1], np.nan)
    for k in range(targets.shape[1]):
        predicted, observed, cells = reliability(targets[:, k], probs[:, k], bins)
        if cells.sum():
            errors[k] = np.average(np.abs(predicted - observed), weights=cells)
    return errors


def reliability(targets: np.ndarray, probs: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of positives and number of cells of each bin that is not empty, in ascending order.

    targets: (N,) 0, 1 or NaN (left out). Bins have equal numbers of cells, except that equal probabilities share a bin.
    """
    known = ~np.isnan(targets)
    targets, probs = targets[known], probs[known]
    place = np.searchsorted(np.sort(probs), probs) * bins // max(1, len(probs))
    cells = np.bincount(place, minlength=bins)
    there = cells > 0
    predicted, observed = (np.bincount(place, values, minlength=bins)[there] / cells[there]
                           for values in (probs, targets))
    return predicted, observed, cells[there]


def draw_reliability(targets: np.ndarray, probs: dict[str, np.ndarray], labels: tuple[str, ...], title: str) -> Figure:
    """A reliability diagram for each label: the share of positives over the mean probability.

    probs: (N, K) by name, at most three. The bins are those of `calibration_errors`.
    """
    columns = min(4, len(labels))
    lines = -(-len(labels) // columns)
    figure = Figure(figsize=(3.2 * columns + 0.6, 3.2 * lines + 1.0), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for k, (label, axis) in enumerate(zip(labels, axes, strict=False)):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
        for (name, values), style in zip(probs.items(), (
                {"color": "#b2182b", "marker": "o"}, {"color": "#4d9221", "marker": "^"},
                {"color": "#2166ac", "marker": "s"}), strict=False):
            predicted, observed, _ = reliability(targets[:, k], values[:, k])
            error = calibration_errors(targets[:, [k]], values[:, [k]])[0]
            axis.plot(predicted, observed, linewidth=1, markersize=3.5, label=f"{name}, ECE {error:.3f}", **style)
        axis.set(title=f"{label} ({int((targets[:, k] == 1).sum())} of {int((~np.isnan(targets[:, k])).sum())})",
                 xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axis.title.set_fontsize(9)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6.5, loc="upper left", frameon=False)
    for axis in axes[len(labels):]:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("mean probability of a bin", fontsize=9)
    figure.supylabel("share of positives in it", fontsize=9)
    return figure


def _certain_rows(targets: np.ndarray) -> list[np.ndarray | None]:
    """The rows of every label that are 0 or 1; None if they are of one class."""
    return [known if len(np.unique(targets[known, k])) == 2 else None
            for k, known in enumerate((~np.isnan(targets)).T)]


def _temperature(loss: Callable[[float], float]) -> float:
    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(lambda log_t: loss(np.exp(log_t)), bounds=(low, high), method="bounded",
                                        options={"xatol": 1e-6}).x))


def _platt_line(targets: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    positives = weights[targets == 1].sum()
    negatives = weights[targets == 0].sum()
    smoothed = np.where(targets == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    total = weights.sum()

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        scores = line[0] * logits + line[1]
        slack = weights * (expit(scores) - smoothed)
        value = (weights * (np.logaddexp(0, scores) - smoothed * scores)).sum()
        return value / total, np.array([(slack * logits).sum(), slack.sum()]) / total

    start = np.array([1.0, 0.0])
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=((0, None), (None, None)),
                    options={"ftol": 1e-12, "gtol": 1e-8}).x
