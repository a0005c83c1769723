"""Number formats of training steps: the context they compute in, and which is fastest here, found by a short trial."""

import copy
import json
import os
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.overrides import TorchFunctionMode
from tqdm import trange

from common.files import home, read_json, sha256, write_json
from common.hardware import device_name, has_bf16
from models.classifier import count_parameters

# How many times faster than fp32 a format must be. What was measured lies at 1.5 to 1.9 (convolutions in bf16) or at
# 1.0 to 1.3 (depthwise ones in mixed, the MLPs): between the two noise decides nothing, and a rerun gets the same bits.
WORTH = 1.35
PIXELS = 2**18     # in a batch of a trial on a processor: 64 images of 64 pixels, 5 of 224; a GPU gets the whole batch
MOST_ROUNDS, LEAST_ROUNDS, SECONDS = 20, 3, 2.0  # of a trial


@dataclass(frozen=True)
class Step:
    """The shape of a training step: what is timed, and under what the choice is kept."""

    network: str
    channels: int
    image_size: int  # pixels
    batch_size: int  # images that go through the network at once
    outputs: int     # logits


class DepthwiseInFp32(TorchFunctionMode):
    """Inside bf16 autocast: convolutions with groups compute in float32, whichever layer calls them.

    Processors' bf16 kernels for depthwise convolutions run at half the speed of the fp32 ones, while the convolutions
    between them gain from bf16. The network itself is not changed, so its copies and its saved weights are as ever.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
        if func is not F.conv2d or groups == 1:
            return func(*args, **kwargs)
        images, *others = (value.float() if isinstance(value, Tensor) else value for value in args)
        with torch.autocast(images.device.type, enabled=False):
            return func(images, *others, **kwargs)


@contextmanager
def autocast(device: str, precision: str) -> Iterator[None]:
    """The context in which a training step computes: "fp32", "bf16", or "mixed": bf16 but depthwise in fp32."""
    if precision == "fp32":
        yield
        return
    with torch.autocast(device, torch.bfloat16), DepthwiseInFp32() if precision == "mixed" else nullcontext():
        yield


def choose_precision(model: nn.Module, step: Step, device: str, threads: int) -> str:
    """The fastest number format for training steps on this machine: "fp32", "bf16" or "mixed".

    Tried once, on a copy of the model, and kept in data/precision: the folds of a run and the same run again get the
    same choice. Model and random state stay as they are. threads: as many as a fold will train with.
    """
    if not has_bf16(device):
        return "fp32"
    key = asdict(step) | {"parameters": count_parameters(model), "device": device_name(device), "threads": threads,
                          "torch": torch.__version__}
    name = f"{re.sub(r'[^A-Za-z0-9_]', '_', step.network)}-{sha256(json.dumps(key, sort_keys=True))[:12]}.json"
    path = home() / "data" / "precision" / name
    if not path.exists():
        seconds = time_formats(model, step, device, threads)
        best = min(seconds, key=seconds.get)
        choice = best if seconds["fp32"] >= WORTH * seconds[best] else "fp32"
        _keep(path, {"precision": choice, "seconds_a_step": seconds, **key})
    return read_json(path)["precision"]


def time_formats(model: nn.Module, step: Step, device: str, threads: int) -> dict[str, float]:
    """Seconds of a training step by number format, the median of rounds in which every format takes one step.

    On a processor that is the time all threads computed, which other programs lengthen little; on a GPU it is the wall
    clock's.
    """
    formats = ["fp32", "bf16"]
    on_processor = device == "cpu"
    if on_processor and any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in model.modules()):
        formats.append("mixed")
    batch = max(2, min(step.batch_size, PIXELS // step.image_size**2)) if on_processor else step.batch_size
    clock = time.process_time if on_processor else time.perf_counter
    taken = {name: [] for name in formats}
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng([] if on_processor else [torch.cuda.current_device()]):
            take = _make_step(model, step, batch, device)
            for name in formats:
                take(name)  # the first step of each prepares kernels
            end = time.perf_counter() + SECONDS
            for done in trange(MOST_ROUNDS, desc=f"trying {', '.join(formats)}", leave=False, disable=None):
                if done >= LEAST_ROUNDS and time.perf_counter() > end:
                    break
                for name in formats:
                    start = clock()
                    take(name)
                    taken[name].append(clock() - start)
    finally:
        torch.set_num_threads(threads_before)
    return {name: statistics.median(values) for name, values in taken.items()}


def _make_step(model: nn.Module, step: Step, batch: int, device: str):
    """A function that takes one training step in a given format, on a copy of the model and random images."""
    twin = copy.deepcopy(model).train()
    optimizer = AdamW([parameter for parameter in twin.parameters() if parameter.requires_grad], lr=0.0, fused=True)
    shape = (batch, step.channels, step.image_size, step.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    targets = torch.rand(batch, step.outputs, device=device)

    def take(precision: str) -> None:
        with autocast(device, precision):
            loss = F.binary_cross_entropy_with_logits(twin(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()  # waits for a GPU

    return take


def _keep(path: Path, choice: dict) -> None:
    """Writes the choice unless another process was first: whoever reads the file afterwards reads the same."""
    temporary = write_json(path.with_name(f".{path.name}.{os.getpid()}"), choice)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        write_json(path, choice)
    temporary.unlink()
