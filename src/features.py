"""What a frozen ImageNet network says of every image, computed once and kept."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from files import home, replace_atomically, sha256

BATCH = 64
LEAST_SIDE = 128  # pixels the network is shown at least; smaller images are enlarged: at 64 its last map is 2x2


def frozen_features(name: str, images: np.ndarray, key: str, network: str = "tf_efficientnet_lite0",
                    rows: np.ndarray | None = None) -> np.ndarray:
    """(N, D) float32, mapped and read-only: a timm network's pooled features before its last layer, ImageNet weights.

    images: uint8 (N, H, W) grey or (N, H, W, 3), an array or mapped, as Scan.thumbnails and PixelStore.pixels are.
    key: what tells these pixels from all others, the name of the folder they stand in. Kept in
    data/features/<name>-<key of network and pixels>.npy, so a second call reads a file. Square images smaller than 128
    pixels are enlarged for the network. rows (n,): these images only, (n, D), in this order. Two cores take about a
    second for a hundred.
    Raises FileNotFoundError where the weights cannot be found, ValueError where there is no such network or a kept file
    is damaged.
    """
    rows = np.arange(len(images)) if rows is None else np.asarray(rows, np.int64)
    short = sha256(key, network, str(LEAST_SIDE), str(images.shape), rows.tobytes())[:10]
    path = home() / "data" / "features" / f"{name}-{short}.npy"
    if not path.exists():
        _compute(path, name, images, rows, network)
    try:
        features = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and it is computed again") from error
    if features.ndim != 2 or len(features) != len(rows):
        raise ValueError(f"{path} holds an array {features.shape} for {len(rows)} images; delete it, and it is "
                         "computed again")
    return features


def _compute(path: Path, name: str, images: np.ndarray, rows: np.ndarray, network: str) -> None:
    """Written batch by batch, so that memory does not grow with N."""
    import torch

    from hardware import pick_device
    from model import build_model

    device, side = pick_device(), max(LEAST_SIDE, images.shape[1])
    channels = images.shape[3] if images.ndim == 4 else 1
    model = build_model(network, channels, side, outputs=1, weights="imagenet").eval().to(device)
    with (replace_atomically(path) as temporary, temporary.open("wb") as file, torch.inference_mode(),
          tqdm(total=len(rows), desc=f"{name}, features", unit="image", disable=None) as bar):
        for first in range(0, len(rows), BATCH):
            features = _features_of(model, images[rows[first:first + BATCH]], side, device)
            if first == 0:
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), features.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(features, dtype="<f4").data)
            bar.update(len(features))


def _features_of(model: "torch.nn.Module", images: np.ndarray, side: int, device: str) -> np.ndarray:  # noqa: F821
    import torch

    batch = torch.from_numpy(images).to(device)
    batch = (batch[:, None] if batch.ndim == 3 else batch.permute(0, 3, 1, 2)).float()
    if batch.shape[-1] < side or batch.shape[-2] < side:
        batch = torch.nn.functional.interpolate(batch, size=(side, side), mode="bilinear", align_corners=False)
    batch = model.normalise(batch).contiguous(memory_format=torch.channels_last)
    network = model.network
    return network.forward_head(network.forward_features(batch), pre_logits=True).float().cpu().numpy()
