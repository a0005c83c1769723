"""Our training step and other tools' on the same images in memory:  python tests/benchmarks/against_others.py

The other tools need an environment of their own, which is named with --others:
    python -m venv others && others/bin/pip install torch==2.13.0 tensorflow fastai lightning
    python tests/benchmarks/against_others.py --others others/bin/python
What is not installed there is left out, and said. Every tool trains the same layers with AdamW on the same images of
8 bits in a process of its own, in turns of about --seconds, so that a busy machine disturbs all alike; figures are
medians over turns. Ours is what train.py runs: loader, normalisation, clipped gradients, averaged weights. With more
threads than one it is measured twice: one fold on all of them, and, as train.py does it, a fold on each. The others are
as their manuals show them: TensorDataset and DataLoader, or `fit` on arrays.
"""

import argparse
import json
import operator
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src"
sys.path.insert(0, str(SRC))

import numpy as np  # noqa: E402

NETWORKS = ("cnn_a", "cnn_b", "cnn_c", "cnn_d", "cnn_e", "lstm", "mlp_a", "mlp_b")  # models/architectures.py
FOLDS = "ours, a fold a thread"
LIBRARIES = {"ours": "torch", FOLDS: "torch", "plain PyTorch": "torch", "Keras fp32": "tensorflow",
             "Keras mixed bf16": "tensorflow", "fastai": "fastai", "Lightning": "lightning"}
OURS = ("ours", FOLDS)
POOL, OUTPUTS, LR = 16_384, 3, 1e-4  # images in memory, logits, learning rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--tools", nargs="+", default=list(LIBRARIES), choices=LIBRARIES)
    parser.add_argument("--others", default=sys.executable, help="the Python that has tensorflow, fastai, lightning")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="that the slowest tool's turn takes, about")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # a child process's order, as JSON
    args = parser.parse_args()
    if args.work:
        work(json.loads(args.work))
        return
    tools = [tool for tool in args.tools if not (tool == FOLDS and args.threads == 1)
             and _is_installed(LIBRARIES[tool], args.others if tool not in OURS else None)]
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    for network in args.networks:
        compare(network, tools, args)
    print(f"load average after: {os.getloadavg()[0]:.1f}")


def _is_installed(library: str, python: str | None) -> bool:
    command = [python or sys.executable, "-c", f"import importlib.util as u; assert u.find_spec({library!r})"]
    found = subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    if not found:
        print(f"{library} is not installed for {command[0]}: left out")
    return found


def compare(network: str, tools: list[str], args: argparse.Namespace) -> None:
    """Prints one network's table."""
    from rich.console import Console
    from rich.table import Table

    workers = {tool: FoldWorkers(network, args) if tool == FOLDS else Worker(tool, network, args, args.threads)
               for tool in tools}
    steps = 4
    while 2 * steps * args.batch_size <= POOL and all(
            worker.turn(steps)["wall"] < args.seconds / 2 for worker in workers.values()):
        steps *= 2
    turns = [{tool: worker.turn(steps) for tool, worker in workers.items()} for _ in range(args.rounds)]
    table = Table("", "images/s", "ours is", "images/s of processor time", "ours is", "parameters", "peak MB",
                  title=f"{network}, {args.size} px, batch {args.batch_size}, {args.threads} threads, "
                        f"{args.rounds} turns of {steps} steps")
    for tool, worker in workers.items():
        cells = []
        for clock in ("wall", "processor"):
            rates = {other: [workers[other].folds * steps * args.batch_size / turn[other][clock] for turn in turns]
                     for other in (tool, *(ours for ours in OURS if ours in workers))}
            cells.append(f"{statistics.median(rates[tool]):,.0f}")
            cells.append("; ".join(f"{statistics.median(map(operator.truediv, rates[ours], rates[tool])):.2f}x"
                                   for ours in OURS if ours in workers))
        last = worker.turn(0)
        table.add_row(f"{tool} {worker.note}", *cells, f"{worker.parameters:,}", f"{last['peak MB']:,.0f}")
        worker.stop()
    Console(width=140).print(table)


class Worker:
    """A process that trains one network with one tool whenever it is told to, and sleeps in between."""

    folds = 1

    def __init__(self, tool: str, network: str, args: argparse.Namespace, threads: int):
        order = {"tool": tool, "network": network, "size": args.size, "batch_size": args.batch_size,
                 "threads": threads}
        python = sys.executable if tool in OURS else args.others
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
        self.tool, self.complaints = tool, tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([python, "-W", "ignore", __file__, "--work", json.dumps(order)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints,
                                        env=os.environ | quiet)
        about = self.read()
        self.parameters, self.note = about["parameters"], about["note"]

    def turn(self, steps: int) -> dict:
        """Seconds of so many steps by the clock on the wall and of processor time; the process's most memory."""
        self.start(steps)
        return self.read()

    def start(self, steps: int) -> None:
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()

    def read(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("@"):  # tools print things of their own
                return json.loads(line[1:])
        self.complaints.seek(0)
        raise RuntimeError(f"the process of {self.tool} ended:\n{self.complaints.read()[-2000:]}")

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.complaints.close()


class FoldWorkers:
    """As many processes of one thread as there are threads, which train side by side."""

    def __init__(self, network: str, args: argparse.Namespace):
        self.workers = [Worker("ours", network, args, 1) for _ in range(args.threads)]
        self.folds, self.parameters, self.note = len(self.workers), self.workers[0].parameters, self.workers[0].note

    def turn(self, steps: int) -> dict:
        """So many steps of every process: the slowest one's seconds, processor time and memory of all."""
        for worker in self.workers:
            worker.start(steps)
        turns = [worker.read() for worker in self.workers]
        return {"wall": max(turn["wall"] for turn in turns)} | {
            key: sum(turn[key] for turn in turns) for key in ("processor", "peak MB")}

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()


def work(order: dict) -> None:
    """In a process of its own: builds, warms up, then a turn for every line read."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (POOL, order["size"], order["size"]), np.uint8)
    targets = rng.integers(0, 2, (POOL, OUTPUTS)).astype(np.float32)
    train, parameters, note = TOOLS[order["tool"]](order, images, targets)
    train(3 * order["batch_size"])
    print("@" + json.dumps({"parameters": parameters, "note": note}), flush=True)
    for line in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        if steps := int(line):
            train(steps * order["batch_size"])
        taken = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        print("@" + json.dumps(taken | {"peak MB": _peak_megabytes()}), flush=True)


def _peak_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


# ---- tools: (order, images (N, S, S) uint8, targets (N, K)) -> train on the first n images, parameters, a note

Train = Callable[[int], None]


def ours(order: dict, images: np.ndarray, targets: np.ndarray) -> tuple[Train, int, str]:
    from common.hardware import tune_process

    tune_process()
    import torch
    from torch.optim.lr_scheduler import LambdaLR

    from models.classifier import build_model, count_parameters
    from training.batches import training_batches
    from training.loop import train_one_epoch
    from training.losses import masked_bce
    from training.optimization import EMA, build_optimizer
    from training.precision import choose_precision

    class MemoryStore:
        """What the loader asks of a pixel store."""

        def read(self, rows: np.ndarray) -> np.ndarray:
            return images[rows]

    torch.set_num_threads(order["threads"])
    model = build_model(order["network"], 1, order["size"], OUTPUTS).to(memory_format=torch.channels_last)
    precision = choose_precision(order["network"], model, order["size"], "cpu")
    optimizer = build_optimizer(model, "adamw", LR, weight_decay=1e-2)
    scheduler, ema = LambdaLR(optimizer, lambda step: 1.0), EMA(model, 0.99)

    def train(count: int) -> None:
        batches = training_batches(MemoryStore(), np.arange(count), targets[:count], order["batch_size"], "none", 0, 0)
        train_one_epoch(model, batches, masked_bce, optimizer, scheduler, ema, precision=precision)

    return train, count_parameters(model), precision


def plain_network(order: dict):
    """The network with torch's own layers, ReLU before pooling, and its normalisation; and its number of parameters."""
    from torch import nn

    from models.architectures import NETWORKS as BUILDERS
    from models.layers import BitDropout, PooledReLU, UnfoldConv2d

    network = BUILDERS[order["network"]](1, order["size"], OUTPUTS)
    for name, layer in list(network.named_children()):
        if isinstance(layer, PooledReLU):
            pool = nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
            setattr(network, name, nn.Sequential(nn.ReLU(), pool))
        elif isinstance(layer, UnfoldConv2d):
            setattr(network, name, nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size,
                                             padding=layer.padding))
        elif isinstance(layer, BitDropout):
            setattr(network, name, nn.Dropout(layer.p))

    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network((images.float() / 255 - 0.5) / 0.25)

    return Normalised(), sum(parameter.numel() for parameter in network.parameters())


def _dataset(images: np.ndarray, targets: np.ndarray, count: int):
    import torch
    from torch.utils.data import TensorDataset

    return TensorDataset(torch.from_numpy(images[:count, None]), torch.from_numpy(targets[:count]))


def plain(order: dict, images: np.ndarray, targets: np.ndarray) -> tuple[Train, int, str]:
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(order["threads"])
    model, parameters = plain_network(order)
    optimizer = torch.optim.AdamW(model.parameters(), LR)
    loss_fn = torch.nn.BCEWithLogitsLoss()

    def train(count: int) -> None:
        model.train()
        for batch, labels in DataLoader(_dataset(images, targets, count), order["batch_size"], shuffle=True):
            optimizer.zero_grad()
            loss_fn(model(batch), labels).backward()
            optimizer.step()

    return train, parameters, ""


def fastai(order: dict, images: np.ndarray, targets: np.ndarray) -> tuple[Train, int, str]:
    import torch
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner

    torch.set_num_threads(order["threads"])
    model, parameters = plain_network(order)

    def train(count: int) -> None:
        loader = DataLoader(_dataset(images, targets, count), bs=order["batch_size"], shuffle=True)
        learner.dls = DataLoaders(loader, empty)  # nothing to validate
        learner.fit(1, LR)

    empty = DataLoader(_dataset(images, targets, 0), bs=order["batch_size"])
    learner = Learner(DataLoaders(empty, empty), model, loss_func=torch.nn.BCEWithLogitsLoss())
    return train, parameters, ""


def lightning(order: dict, images: np.ndarray, targets: np.ndarray) -> tuple[Train, int, str]:
    from common.hardware import import_torchvision

    import_torchvision()
    import lightning
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(order["threads"])
    model, parameters = plain_network(order)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, number):
            return torch.nn.functional.binary_cross_entropy_with_logits(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), LR)

    module = Module()

    def train(count: int) -> None:
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
                                    enable_progress_bar=False, enable_model_summary=False)
        trainer.fit(module, DataLoader(_dataset(images, targets, count), order["batch_size"], shuffle=True))

    return train, parameters, ""


def keras_fp32(order: dict, images: np.ndarray, targets: np.ndarray) -> tuple[Train, int, str]:
    return _keras(order, images, targets, "float32")


def keras_bf16(order: dict, images: np.ndarray, targets: np.ndarray) -> tuple[Train, int, str]:
    return _keras(order, images, targets, "mixed_bfloat16")


def _keras(order: dict, images: np.ndarray, targets: np.ndarray, policy: str) -> tuple[Train, int, str]:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(order["threads"])
    tensorflow.config.threading.set_inter_op_parallelism_threads(order["threads"])
    keras.mixed_precision.set_global_policy(policy)
    model = keras.Sequential([keras.Input((order["size"], order["size"], 1), dtype="uint8"),
                              keras.layers.Rescaling(4 / 255, -2), *keras_layers(order["network"]),
                              keras.layers.Dense(OUTPUTS, dtype="float32")])
    model.compile(keras.optimizers.AdamW(LR), keras.losses.BinaryCrossentropy(from_logits=True))
    images = images[..., None]

    def train(count: int) -> None:
        model.fit(images[:count], targets[:count], batch_size=order["batch_size"], verbose=0)

    return train, sum(weight.numpy().size for weight in model.trainable_weights), ""


def keras_layers(network: str) -> list:
    """The layers of one of 003's networks up to the last, as Keras has them."""
    from keras import layers

    def conv(filters: int, kernel: int, padding: str = "valid", stride: int = 1):
        return layers.Conv2D(filters, kernel, stride, padding, activation="relu")

    def dense(units: int):
        return layers.Dense(units, activation="relu")

    pool, drop, norm, flat = layers.MaxPooling2D, layers.Dropout, layers.BatchNormalization, layers.Flatten
    return {
        "cnn_a": lambda: [conv(256, 3), pool(3), flat(), dense(256)],
        "cnn_b": lambda: [conv(25, 5, "same"), pool(2, padding="same"), conv(50, 5, "same", 2),
                          pool(2, padding="same"), norm(), conv(70, 3, "same", 2), pool(2), norm(), flat(),
                          dense(100), dense(100), drop(0.25)],
        "cnn_c": lambda: [conv(50, 3, "same"), conv(75, 3, "same"), pool(2), drop(0.25), conv(125, 3, "same"),
                          pool(2), drop(0.25), flat(), dense(500), drop(0.4), dense(250), drop(0.3)],
        "cnn_d": lambda: [conv(32, 5), pool(5), conv(64, 5), pool(5), flat(), dense(1024), drop(0.8)],
        "cnn_e": lambda: [conv(32, 3, "same"), conv(32, 3), pool(2), drop(0.2),
                          conv(64, 3, "same"), conv(64, 3), pool(2), drop(0.2),
                          conv(128, 3, "same"), conv(128, 3), pool(2), drop(0.2),
                          conv(512, 5, "same"), conv(512, 5), layers.GlobalMaxPooling2D(), drop(0.2),
                          dense(1024), drop(0.2)],
        "lstm": lambda: [layers.Reshape((64, 64)), layers.LSTM(128, return_sequences=True),
                         layers.LSTM(128, return_sequences=True), flat(), dense(64)],
        "mlp_a": lambda: [flat(), dense(256), dense(256)],
        "mlp_b": lambda: [flat(), layers.Dense(256), dense(100), drop(0.5), norm()],
    }[network]()


TOOLS = {"ours": ours, "plain PyTorch": plain, "Keras fp32": keras_fp32, "Keras mixed bf16": keras_bf16,
         "fastai": fastai, "Lightning": lightning}


if __name__ == "__main__":
    main()
