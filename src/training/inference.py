"""Probabilities of images by a trained network."""

import numpy as np
import torch

from data.pixel_store import PixelStore
from experiment import Experiment
from training.batches import ordered_batches
from training.loop import predict_logits
from training.losses import PROBS

PREDICT_BATCH = 64


def predict_probs(model: torch.nn.Module, store: PixelStore, rows: np.ndarray, task: str, experiment: Experiment,
                  prior: np.ndarray, verbose: bool = False) -> np.ndarray:
    """Probabilities (n, K) of the store's rows (n,), from the mean of logits over the experiment's views.

    prior: (K,) what images of one grey value get, since they show nothing, unless the experiment keeps them.
    verbose: True shows a progress bar. Raises FloatingPointError where a logit is not finite.
    """
    loader = ordered_batches(store, rows, PREDICT_BATCH)
    logits = predict_logits(model, loader, experiment.tta, "predicting" if verbose else None)
    if not logits.isfinite().all():
        raise FloatingPointError("the network's logits are not finite: training made its weights too large. Lower lr "
                                 "or max_grad_norm, or set precision=fp32, and train under another --name")
    probs = PROBS[task](logits).double().numpy()
    if experiment.constant_images != "keep":
        probs[store.constant[rows]] = prior
    return probs
