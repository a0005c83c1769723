"""What a run decided wrongly: truth beside prediction, the worst first."""

import numpy as np
import pandas as pd

from competition import Competition


def list_errors(competition: Competition, image_ids: pd.Series, targets: np.ndarray, probs: np.ndarray,
                decisions: np.ndarray, folds: np.ndarray) -> pd.DataFrame:
    """A row for every wrong decision, sorted by the probability of the truth, the smallest first.

    targets, probs, decisions: (N, K); a target is 1, 0 or NaN (not scored).  folds: (N,).
    For labels the columns are image_id, fold, label, truth, predicted (0 or 1), prob (of the label); for classes
    image_id, fold, truth, predicted (names), prob_of_truth, prob_of_predicted.
    """
    ids, labels = image_ids.to_numpy(), np.array(competition.labels)
    if competition.task == "multiclass":
        rows = np.flatnonzero(~np.isnan(targets).any(axis=1))
        truth, predicted = targets[rows].argmax(axis=1), decisions[rows].argmax(axis=1)
        frame = pd.DataFrame({
            "image_id": ids[rows], "fold": folds[rows], "truth": labels[truth], "predicted": labels[predicted],
            "prob_of_truth": probs[rows, truth], "prob_of_predicted": probs[rows, predicted]})
        wrong, of_truth = truth != predicted, frame["prob_of_truth"]
    else:
        rows, k = np.nonzero(~np.isnan(targets))
        truth = targets[rows, k].astype(int)
        frame = pd.DataFrame({
            "image_id": ids[rows], "fold": folds[rows], "label": labels[k], "truth": truth,
            "predicted": decisions[rows, k].astype(int), "prob": probs[rows, k]})
        wrong, of_truth = frame["predicted"] != truth, frame["prob"].where(truth == 1, 1 - frame["prob"])
    order = of_truth[wrong].sort_values(kind="stable").index
    return frame.loc[order].reset_index(drop=True)
