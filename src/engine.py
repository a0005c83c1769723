"""The two loops: train_one_epoch and predict_logits. Everything that trains or predicts runs through them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

from ema import EMA
from hardware import autocast
from tta import VIEWS


def train_one_epoch(model: nn.Module, loader: DataLoader, loss_fn: Callable[[Tensor, Tensor], Tensor],
                    optimizer: Optimizer, scheduler: LRScheduler, ema: EMA, max_grad_norm: float = 1.0,
                    precision: str = "fp32", label: str | None = None) -> float:
    """One pass over the loader; returns the mean loss of an image. `label` names the progress bar, None: no bar.

    Raises FloatingPointError where the loss is not finite.
    """
    model.train()
    device = next(model.parameters()).device
    loss_sum, seen = torch.zeros((), device=device), 0
    batches = tqdm(loader, desc=label, unit="batch", leave=False, disable=None if label else True)
    for images, targets, _ in batches:  # (B, C, H, W), (B, K)
        images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        with autocast(device.type, precision):
            loss = loss_fn(model(images), targets)

        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for unit in model.clip_units():
            nn.utils.clip_grad_norm_(unit.parameters(), max_grad_norm)
        optimizer.step()
        scheduler.step()
        ema.update(model)

        loss_sum += loss.detach() * len(images)  # stays on the device: .item() here would make a GPU wait
        seen += len(images)
    if not loss_sum.isfinite():
        raise FloatingPointError("the loss is not finite; lower lr, or look at the images and targets of this epoch")
    return (loss_sum / seen).item()


@torch.inference_mode()
def predict_logits(model: nn.Module, loader: DataLoader, views: tuple[str, ...], label: str | None = None) -> Tensor:
    """Logits (N, K) in the loader's order, the mean over the named views; float32 on the CPU.

    Computed in float32: bfloat16 rounds so coarsely that different images get equal scores, which costs AUC.
    """
    model.eval()
    device = next(model.parameters()).device
    logits = []
    for images, _, _ in tqdm(loader, desc=label, unit="batch", leave=False, disable=None if label else True):
        images = images.to(device, non_blocking=True)
        logits.append(torch.stack([model(VIEWS[view](images)) for view in views]).mean(dim=0).float().cpu())
    return torch.cat(logits)
