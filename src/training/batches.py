"""Batches of images and targets out of the pixel store, the same for any number of workers."""

import os
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.hardware import exit_with_parent
from data.pixel_store import PixelStore
from training.augmentation import augment_batch
from training.sampling import draw_epoch, occurrences


class Batches(Dataset):
    """Whole batches by their number: images uint8 (B, C, H, W), targets float32 (B, K), store rows int64 (B,)."""

    def __init__(self, store: PixelStore, rows: np.ndarray, targets: np.ndarray, drawn: np.ndarray,
                 parts: list[np.ndarray], augmentation: str = "none", seed: int = 0, epoch: int = 0):
        self.store, self.rows, self.targets, self.drawn, self.parts = store, rows, targets, drawn, parts
        self.augmentation, self.seed, self.epoch = augmentation, seed, epoch
        self.repeats = occurrences(drawn)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        part = self.drawn[self.parts[number]]
        rows = self.rows[part]
        images = self.store.read(rows)
        if self.augmentation != "none":
            images = augment_batch(self.augmentation, images, self.augmentation_keys(number), self.seed, self.epoch)
        images = images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)
        images = torch.from_numpy(np.ascontiguousarray(images))
        return images, torch.from_numpy(self.targets[part]), torch.from_numpy(rows)

    def augmentation_keys(self, number: int) -> list[str]:
        """What a batch's images are augmented by: their ids, with a suffix where an epoch repeats an image."""
        repeats, rows = self.repeats[self.parts[number]], self.rows[self.drawn[self.parts[number]]]
        return [f"{image_id}, shown {repeat + 1} times" if repeat else image_id
                for image_id, repeat in zip(self.store.ids[rows].tolist(), repeats.tolist(), strict=True)]


def training_batches(store: PixelStore, rows: np.ndarray, targets: np.ndarray, batch_size: int, augmentation: str,
                     seed: int, epoch: int, workers: int = 0, expected: np.ndarray | None = None) -> DataLoader:
    """One epoch in an order that is a function of (seed, epoch) only.

    expected: (N,) how often each of the rows is shown (sampling.py); None: once. They are split into batches of
    nearly equal size, none above `batch_size`: no image is dropped, and no tiny last batch upsets batch normalisation.
    workers: processes that read and augment ahead; with a GPU, batches lie in pinned memory, from which they are copied
    while it computes.
    """
    drawn = draw_epoch(np.ones(len(rows)) if expected is None else expected, seed, epoch)
    parts = np.array_split(np.arange(len(drawn)), -(-len(drawn) // batch_size))
    batches = Batches(store, rows, targets, drawn, parts, augmentation, seed, epoch)
    return _load(batches, workers)


def ordered_batches(store: PixelStore, rows: np.ndarray, batch_size: int, workers: int = 0) -> DataLoader:
    """All rows in their order, not augmented; the targets are empty (B, 0)."""
    order = np.arange(len(rows))
    parts = np.split(order, range(batch_size, len(rows), batch_size))
    return _load(Batches(store, rows, np.zeros((len(rows), 0), np.float32), order, parts), workers)


def _load(batches: Batches, workers: int) -> DataLoader:
    return DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available(),
                      worker_init_fn=partial(_start_worker, parent=os.getpid()))


def _start_worker(worker: int, parent: int) -> None:
    """Keeps a worker to one OpenCV thread, since workers run in parallel, and ends it with the training process.

    torch's own check takes the worker's parent at its first look for the training process. It never ends where the
    training process was killed while the worker was still starting.
    """
    cv2.setNumThreads(0)
    exit_with_parent(parent)
