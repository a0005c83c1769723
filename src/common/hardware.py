"""The machine: device, cores, bf16, settings of threads and memory; and an import of torchvision that works."""

import ctypes
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's malloc.h


def tune_process() -> None:
    """Makes this process train faster on a processor; call it before torch is imported.

    Waiting threads sleep instead of spinning: if another program uses a core too, spinning makes a training step
    five to ten times slower. And glibc keeps large buffers between steps: by default it gives every buffer over 32 MB
    back to the system and faults it in again, which costs networks with large activations a fifth to a half of
    their time.
    Source: OpenMP 5.2, OMP_WAIT_POLICY; mallopt(3).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for threshold in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(threshold, 1 << 30)


def exit_with_parent(parent: int, stop: Callable[[], bool] = lambda: False) -> None:
    """Ends this process within a second after the process with the id `parent` has ended, or `stop` returns True."""
    def watch() -> None:
        while os.getppid() == parent and not stop():
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def count_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick_device() -> str:
    """The torch device to compute on: "cuda", "mps" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = True  # the same recipe, the same weights
        torch.backends.cudnn.benchmark = False
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def has_bf16(device: str) -> bool:
    """True if bfloat16 multiplies faster than float32: recent NVIDIA cards, processors with AVX512-BF16 or AMX."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    return device == "cpu" and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def device_name(device: str) -> str:
    """The name of the GPU or processor; two of the same name are equally fast."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    about = Path("/proc/cpuinfo")  # Linux; names alone do not tell generations apart, virtual machines cut them short
    facts = re.findall(r"^(?:cpu family|model|model name)\s*: (.*)$", about.read_text(), re.M) if about.exists() else []
    return " ".join(facts[:3]) or platform.processor() or platform.machine()


def import_torchvision() -> None:
    """Imports torchvision, also if it was built for another build of torch than the installed one.

    A CPU build of torch beside torchvision built for CUDA fails to import with "operator torchvision::nms does not
    exist", and timm and solt fail with it. No classifier needs those operators, so declaring them is enough.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401

        torchvision.declared_operators = library  # the declarations last as long as this object
