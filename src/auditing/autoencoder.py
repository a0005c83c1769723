"""A small convolutional autoencoder: it encodes images (B, C, S, S) as 32 numbers and reconstructs them.

It follows system 004: three 3x3 convolutions that halve the size, their mirror image with a sigmoid, mean squared
error, Adam. It differs in three ways. A linear layer makes a code of 32 numbers: 004's map of 4,096 numbers
reconstructed anomalies too, and a kernel density has no meaning in so many dimensions. Strides and a pixel shuffle
replace pooling and the last upsampling, for speed. The number of steps is fixed, so that the time does not grow with
the number of images.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from data.pixel_store import PixelStore

CODE = 32
STEPS, BATCH, LR = 200, 32, 5e-3
READ_BATCH = 256


class Autoencoder(nn.Module):
    """uint8 images (B, C, S, S) -> codes (B, 32) -> images (B, C, S, S) in [0, 1]; S a multiple of 8."""

    def __init__(self, channels: int, image_size: int):
        super().__init__()
        if image_size % 8:
            raise ValueError(f"the autoencoder halves an image three times; {image_size} pixels are no multiple of 8")
        side = image_size // 8
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(64 * side**2, CODE))
        self.decoder = nn.Sequential(
            nn.Linear(CODE, 64 * side**2), nn.ReLU(), nn.Unflatten(1, (64, side, side)),
            nn.Upsample(scale_factor=2), nn.Conv2d(64, 32, 3, padding=1), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 4 * channels, 3, padding=1), nn.PixelShuffle(2), nn.Sigmoid())

    def encode(self, images: Tensor) -> Tensor:
        """(B, 32) of uint8 images (B, C, S, S)."""
        return self.encoder(images.float() / 255)

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encode(images))


def train_autoencoder(store: PixelStore, rows: np.ndarray, seed: int, steps: int, label: str | None = None,
                      device: str = "cpu") -> Autoencoder:
    """Trains an autoencoder on these images of the store; the result depends only on rows, seed and steps.

    label: the name of the progress bar; None: no bar. Images are read batch by batch, so memory does not grow with N.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder(store.settings.channels, store.settings.size).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(rows) for _ in range(-(-steps * BATCH // len(rows)))])
    for step in tqdm(range(steps), desc=label, unit="step", leave=False, disable=None if label else True):
        images = read_batch(store, order[step * BATCH:(step + 1) * BATCH]).to(device)
        loss = nn.functional.mse_loss(model(images), images.float() / 255)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def reconstruct(model: Autoencoder, store: PixelStore, rows: np.ndarray,
                label: str | None = None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields batches of images and reconstructions, both (b, C, S, S) in [0, 1], and codes (b, 32)."""
    device = next(model.parameters()).device
    with tqdm(total=len(rows), desc=label, unit="image", leave=False, disable=None if label else True) as bar:
        for first in range(0, len(rows), READ_BATCH):
            images = read_batch(store, rows[first:first + READ_BATCH]).to(device)
            with torch.inference_mode():
                codes = model.encode(images)
                back = model.decoder(codes)
            yield (images.float() / 255).cpu().numpy(), back.cpu().numpy(), codes.cpu().numpy()
            bar.update(len(images))


def errors_and_codes(model: Autoencoder, store: PixelStore, rows: np.ndarray,
                     label: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(n,) mean squared reconstruction error of each image, grey values in [0, 1], and its code (n, 32)."""
    found = [(np.square(images - back).mean(axis=(1, 2, 3)), codes)
             for images, back, codes in reconstruct(model, store, rows, label)]
    errors, codes = (np.concatenate(each).astype(np.float64) for each in zip(*found, strict=True)) if found else (
        np.empty(0), np.empty((0, CODE)))
    return errors, codes


def read_batch(store: PixelStore, rows: np.ndarray) -> Tensor:
    """uint8 (b, C, S, S), the images of these rows."""
    images = torch.from_numpy(store.read(rows))
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
