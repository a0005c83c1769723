"""Batches of images and targets out of the pixel store, the same whatever the number of workers."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from augmentation import augment_batch
from pixels import PixelStore
from sampling import draw_epoch, occurrences


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
            repeats = self.repeats[self.parts[number]]  # an image shown again in an epoch is augmented otherwise
            ids = [f"{image_id}, shown {repeat + 1} times" if repeat else image_id
                   for image_id, repeat in zip(self.store.ids[rows], repeats.tolist(), strict=True)]
            images = augment_batch(self.augmentation, images, ids, self.seed, self.epoch)
        images = images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)
        images = torch.from_numpy(np.ascontiguousarray(images))
        return images, torch.from_numpy(self.targets[part]), torch.from_numpy(rows)


def training_batches(store: PixelStore, rows: np.ndarray, targets: np.ndarray, batch_size: int, augmentation: str,
                     seed: int, epoch: int, workers: int = 0, expected: np.ndarray | None = None) -> DataLoader:
    """One epoch in an order that is a function of (seed, epoch) only.

    expected: (N,) how often each of the rows is shown, see sampling.py; None: once. They are dealt into batches of
    nearly equal size, none above `batch_size`: no image is dropped, and no tiny last batch upsets batch normalisation.
    """
    drawn = draw_epoch(np.ones(len(rows)) if expected is None else expected, seed, epoch)
    parts = np.array_split(np.arange(len(drawn)), -(-len(drawn) // batch_size))
    return _load(Batches(store, rows, targets, drawn, parts, augmentation, seed, epoch), workers)


def ordered_batches(store: PixelStore, rows: np.ndarray, batch_size: int, workers: int = 0) -> DataLoader:
    """All rows in their order, not augmented; the targets are empty (B, 0)."""
    order = np.arange(len(rows))
    parts = np.split(order, range(batch_size, len(rows), batch_size))
    return _load(Batches(store, rows, np.zeros((len(rows), 0), np.float32), order, parts), workers)


def _load(batches: Batches, workers: int) -> DataLoader:
    return DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available())
