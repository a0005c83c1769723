"""The two loops: train_one_epoch and predict_logits. Everything that trains or predicts runs through them."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from common.settings import read_value
from training.distributed import rank, sum_gradients, sum_over_all, whole_batch_norm, world
from training.mixup import UNMIXED, Mix
from training.optimization import EMA, freeze_modes
from training.precision import autocast
from training.tta import VIEWS

CHECK_EVERY = 50  # steps: checking whether the losses are finite makes a GPU wait


class LossNotFinite(FloatingPointError):
    """The loss of a step is infinite or not a number."""

    def __init__(self, step: int, rows: Tensor | None):
        super().__init__(f"the loss of step {step + 1} is not finite")
        self.step, self.rows = step, rows  # counted from 0; (B,) the store's rows


def train_one_epoch(model: nn.Module, loader: Iterable, loss_fn: Callable[[Tensor, Tensor], Tensor],
                    optimizer: Optimizer, scheduler: LRScheduler, ema: EMA, max_grad_norm: float = 1.0,
                    precision: str = "fp32", mix: Mix = UNMIXED, seed: tuple[int, ...] = (0, 0),
                    accumulate: int = 1, label: str | None = None) -> float:
    """One pass over the loader; returns the mean loss of an image.

    loader: batches of images (B, C, S, S), targets (B, K), rows (B,).
    loss_fn: (logits, targets) -> scalar, as `make_loss` returns it.
    precision: the number format of the steps, see precision.autocast.
    mix: as `make_mix` returns it;  seed: (seed, epoch), from which mixing draws.
    accumulate: a batch goes through the network in so many parts, one after the other; their gradients add up to the
    whole batch's, though batch norm sees the parts. Under torchrun every process takes its share of each batch.
    label: names the progress bar; None: no bar.
    Raises LossNotFinite.
    """
    model.train()
    freeze_modes(model)
    device = next(model.parameters()).device
    losses, rows_of, sizes = [], [], []
    with whole_batch_norm():
        batches = tqdm(loader, desc=label, unit="batch", leave=False, disable=None if label else True)
        for step, (images, targets, rows) in enumerate(batches):  # (B, C, H, W), (B, K), (B,)
            images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            images, mixed = mix(images, targets, (*seed, step))

            optimizer.zero_grad(set_to_none=True)
            loss = torch.zeros((), device=device)
            for part in _own_parts(len(images), accumulate):
                with autocast(device.type, precision):
                    part_loss = _share_of_loss(loss_fn, model(images[part]), mixed, part)
                part_loss.backward()
                loss += part_loss.detach()
            sum_gradients(model)
            for unit in model.clip_units():
                nn.utils.clip_grad_norm_(unit.parameters(), max_grad_norm)
            optimizer.step()
            scheduler.step()
            ema.update(model)

            losses.append(loss)  # stays on the device: .item() here would make a GPU wait
            rows_of.append(rows)
            sizes.append(len(images))
            if (step + 1) % CHECK_EVERY == 0:
                _check_finite(losses, rows_of)
    losses = _check_finite(losses, rows_of)
    return (losses * losses.new_tensor(sizes)).sum().item() / sum(sizes)


def _own_parts(size: int, accumulate: int) -> Iterator[slice]:
    """This process's parts of a batch: all processes' parts together are the batch."""
    parts = accumulate * world()
    if size < parts:
        raise ValueError(f"a batch of {size} images cannot go through the network in {parts} parts; raise batch_size, "
                         "or lower accumulate or the number of processes")
    for number in range(accumulate * rank(), accumulate * (rank() + 1)):
        yield slice(size * number // parts, size * (number + 1) // parts)


def _share_of_loss(loss_fn: Callable[[Tensor, Tensor], Tensor], logits: Tensor, mixed: list[tuple[Tensor, float]],
                   part: slice) -> Tensor:
    """What a part of a batch adds to the batch's loss: its mean loss times its share of the cells with a target.

    mixed: targets of the whole batch and the share of the loss each has; several where images are mixed.
    """
    loss = 0
    for targets, share in mixed:
        stated = ~targets.isnan()
        loss = loss + loss_fn(logits, targets[part]) * (share * stated[part].sum() / stated.sum().clamp(min=1))
    return loss


def _check_finite(losses: list[Tensor], rows_of: list) -> Tensor:
    """The losses of all steps, summed over processes (steps,). Raises LossNotFinite with the first bad step."""
    stacked = sum_over_all(torch.stack(losses))
    if not stacked.isfinite().all():
        step = int((~stacked.isfinite()).nonzero()[0])
        raise LossNotFinite(step, rows_of[step])
    return stacked


@torch.inference_mode()
def predict_logits(model: nn.Module, loader: Iterable, views: tuple[str, ...], label: str | None = None) -> Tensor:
    """Logits (N, K) in the loader's order, the mean over the named views; float32 on the CPU.

    Computed in float32: bfloat16 rounds so coarsely that different images get equal scores, which costs AUC.
    """
    model.eval()
    device = next(model.parameters()).device
    changes, logits = [read_value("tta", view, VIEWS) for view in views], []
    for images, _, _ in tqdm(loader, desc=label, unit="batch", leave=False, disable=None if label else True):
        images = images.to(device, non_blocking=True)
        logits.append(torch.stack([model(change(images)) for change in changes]).mean(dim=0).float().cpu())
    return torch.cat(logits)
