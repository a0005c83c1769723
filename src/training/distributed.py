"""Several processes train one fold under torchrun: ranks, sums over processes, batch norm over the whole batch.

    torchrun --nproc_per_node=4 src/train.py --experiment lite0

Every process runs the same steps with the same weights and takes its slice of every batch; the gradients are summed.
Without torchrun there is one process, and the functions here have no effect.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

TIMEOUT = timedelta(hours=6)  # that processes wait for one another: the first predicts alone


def rank() -> int:
    """This process's number among those that train together, from 0."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def processes_here() -> int:
    """How many processes on this machine train together."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


@contextmanager
def processes() -> Iterator[None]:
    """The context in which the processes that torchrun started train together.

    A process that fails or dies ends all of them with an error.
    """
    if world() == 1:
        yield
        return
    import torch
    from torch import distributed

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    yield
    distributed.destroy_process_group()  # not after an error: it would wait for processes that wait for this one


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process runs the block, then the others do, who find its results."""
    if world() == 1:
        yield
        return
    from torch import distributed

    if rank() > 0:
        distributed.barrier()
    yield
    if rank() == 0:
        distributed.barrier()


def from_first(value: Any = None) -> Any:
    """The first process's value, in all processes. The value is made of numbers, strings, lists and dicts."""
    if world() == 1:
        return value
    from torch import distributed

    held = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def sum_over_all(tensor: "torch.Tensor") -> "torch.Tensor":  # noqa: F821
    """The sum of every process's tensor, in place."""
    if world() > 1:
        from torch import distributed

        distributed.all_reduce(tensor)
    return tensor


def sum_gradients(model: "torch.nn.Module") -> None:  # noqa: F821
    """Adds up every process's gradients, which are float32 as the weights are, in one message."""
    if world() == 1:
        return
    import torch

    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    summed = sum_over_all(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, summed.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def whole_batch_norm() -> AbstractContextManager:
    """The context in which batch norm in training sees the batches of all processes as one; nothing for one process.

    torch's own SyncBatchNorm is for GPUs only, and would put a layer of its own in the place of timm's, which have the
    activation in them. Here the calls of batch norm are caught, whoever makes them.
    Source of the equations: Ioffe & Szegedy 2015, algorithm 1, https://arxiv.org/abs/1502.03167.
    """
    if world() == 1:
        return nullcontext()
    from torch.distributed.nn.functional import all_reduce  # which gradients go through
    from torch.nn import functional as F
    from torch.overrides import TorchFunctionMode

    class WholeBatchNorm(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is F.batch_norm and kwargs["training"]:
                return _normalise(all_reduce, *args, **kwargs)
            return function(*args, **(kwargs or {}))

    return WholeBatchNorm()


def _normalise(all_reduce, x, running_mean, running_var, weight, bias, training, momentum, eps):
    import torch

    values = x.float()
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    count = values.new_tensor([x.numel() / x.shape[1]])
    # two rounds: the mean first, since a sum of squares minus the mean's square loses digits
    totals = all_reduce(torch.cat([values.sum(axes), count]))
    total = totals[-1].detach()
    mean = totals[:-1] / total
    centred = values - mean.view(shape)
    variance = all_reduce((centred * centred).sum(axes)) / total
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * total / (total - 1)).to(running_var.dtype), momentum)
    normalised = centred * torch.rsqrt(variance + eps).view(shape)
    if weight is not None:
        normalised = normalised * weight.view(shape) + bias.view(shape)
    return normalised.to(x.dtype)
