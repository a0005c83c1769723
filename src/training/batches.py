"""Batches of images and targets out of the pixel store, the same whatever the number of workers."""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.pixel_store import PixelStore
from training.augmentation import augment_batch, augmentation_seed, make_augmentation
from training.device_input import DevicePixels, warp_batch
from training.sampling import draw_epoch, occurrences

WATCH_SECONDS = 1


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
        """What a batch's images are augmented by: their ids, and another where an epoch shows an image again."""
        repeats, rows = self.repeats[self.parts[number]], self.rows[self.drawn[self.parts[number]]]
        return [f"{image_id}, shown {repeat + 1} times" if repeat else image_id
                for image_id, repeat in zip(self.store.ids[rows].tolist(), repeats.tolist(), strict=True)]


class DeviceBatches:
    """The same batches from images that lie in a device's memory, augmented there; the rows stay on the host."""

    def __init__(self, batches: Batches, pixels: DevicePixels):
        if not np.array_equal(pixels.rows, batches.rows):
            raise ValueError("the images in the device's memory are not those of the rows that are to be trained on")
        self.batches, self.pixels = batches, pixels

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        batches = self.batches
        for number in range(len(batches)):
            part = batches.drawn[batches.parts[number]]
            images = self.pixels.take(part)
            if batches.augmentation != "none":
                warp = make_augmentation(batches.augmentation, images.shape[-2])
                seeds = [augmentation_seed(batches.seed, batches.epoch, name) for name in batches.augmentation_keys(number)]
                images = warp_batch(images, warp, seeds)
            targets = torch.from_numpy(batches.targets[part]).to(images.device)
            yield images, targets, torch.from_numpy(batches.rows[part])


def training_batches(store: PixelStore, rows: np.ndarray, targets: np.ndarray, batch_size: int, augmentation: str,
                     seed: int, epoch: int, workers: int = 0, expected: np.ndarray | None = None,
                     pixels: DevicePixels | None = None) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """One epoch in an order that is a function of (seed, epoch) only; with a length.

    expected: (N,) how often each of the rows is shown (sampling.py); None: once. They are dealt into batches of
    nearly equal size, none above `batch_size`: no image is dropped, and no tiny last batch upsets batch normalisation.
    pixels: these rows' images in a device's memory, as load_device_pixels gives them; None: read from the store.
    """
    drawn = draw_epoch(np.ones(len(rows)) if expected is None else expected, seed, epoch)
    parts = np.array_split(np.arange(len(drawn)), -(-len(drawn) // batch_size))
    batches = Batches(store, rows, targets, drawn, parts, augmentation, seed, epoch)
    return _load(batches, workers) if pixels is None else DeviceBatches(batches, pixels)


def ordered_batches(store: PixelStore, rows: np.ndarray, batch_size: int, workers: int = 0) -> DataLoader:
    """All rows in their order, not augmented; the targets are empty (B, 0)."""
    order = np.arange(len(rows))
    parts = np.split(order, range(batch_size, len(rows), batch_size))
    return _load(Batches(store, rows, np.zeros((len(rows), 0), np.float32), order, parts), workers)


def _load(batches: Batches, workers: int) -> DataLoader:
    return DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available(),
                      worker_init_fn=partial(_start_worker, parent=os.getpid()))


def _start_worker(worker: int, parent: int) -> None:
    """The workers are what is done in parallel: each keeps to one thread (torch sees to its own), and ends with the
    training process. torch's own watch takes whatever process it finds above it for that one, and so waits for ever
    where the training process was killed while the worker was still starting.
    """
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)
