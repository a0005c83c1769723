"""Features of images by a frozen network, computed once and kept on disk."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from common.files import home, replace_atomically, sha256
from data.pixel_store import PixelStore

if TYPE_CHECKING:
    from models.classifier import Classifier

BATCH = 64
LEAST_SIDE = 128  # pixels; `frozen_features` enlarges smaller images to this side


class FeatureStore:
    """Features of a pixel store's images by a frozen network, with the interface of the pixel store.

    `features` (N, D) float32, memory-mapped and read-only. Pickled as file names, like the pixel store.
    """

    def __init__(self, store: PixelStore, path: Path):
        self.store, self.path = store, path
        self.features = _open(path, len(store))

    def __len__(self) -> int:
        return len(self.store)

    def __reduce__(self):
        return FeatureStore, (self.store, self.path)

    @property
    def ids(self) -> np.ndarray:
        """(N,) str, the image ids."""
        return self.store.ids

    @property
    def constant(self) -> np.ndarray:
        """(N,) bool, True where the whole image has one grey value."""
        return self.store.constant

    def rows(self, image_ids: Iterable[str]) -> np.ndarray:
        """(n,) int, the rows of these images. Raises ValueError with the ids that are not in the store."""
        return self.store.rows(image_ids)

    def read(self, rows: Iterable[int]) -> np.ndarray:
        """A writable copy of these rows, float32 (n, D), in the given order."""
        return self.features[np.asarray(rows, np.int64)]


def open_features(name: str, model: "Classifier", store: PixelStore, network: str) -> FeatureStore:
    """The features of all images of a pixel store by a model's backbone, computed or read from disk.

    They are the inputs of the head in float32 and evaluation mode, as in prediction, so a head trained on them and put
    back gives the same predictions. (bfloat16 is 1.3 to 1.9 times as fast on processors that have it, but changed the
    AUCs of heads by up to 0.009 in both directions.)
    network: the name of the network. The model is unchanged afterwards. The file is
    data/features/<name>-<key of pixels and weights>.npy; the key depends on images, size, network, normalisation and
    weights, but not on the head.
    """
    from models.heads import head_name, put_head, take_head

    place, was_training = head_name(model), model.training
    head = take_head(model.eval())
    try:
        weights = (part for each, value in model.state_dict().items() for part in (each, value.cpu().numpy().tobytes()))
        key = sha256(store.folder.name, network, *weights)[:10]
        path = home() / "data" / "features" / f"{name}-{key}.npy"
        if not path.exists():
            _compute(path, name, np.arange(len(store)), lambda rows: _run_backbone(model, store.read(rows)))
    finally:
        put_head(model, place, head).train(was_training)
    return FeatureStore(store, path)


def frozen_features(name: str, images: np.ndarray, key: str, network: str = "tf_efficientnet_lite0",
                    rows: np.ndarray | None = None) -> np.ndarray:
    """(N, D) float32, memory-mapped: pooled features before the last layer of a timm network with ImageNet weights.

    images: uint8 (N, H, W) grey or (N, H, W, 3), in memory or memory-mapped;  key: identifies the pixels, such as the
    name of their folder;  rows (n,): only these images, in this order: (n, D). Images smaller than 128 pixels are
    enlarged, because the network's last map is 2 x 2 at 64. The file is data/features/<name>-<key of network and
    pixels>.npy; a second call reads it. Two cores compute about 100 images per second.
    Raises FileNotFoundError if the weights cannot be found, ValueError if there is no such network or the file is
    damaged.
    """
    rows = np.arange(len(images)) if rows is None else np.asarray(rows, np.int64)
    path = _frozen_path(name, images, key, network, rows)
    if not path.exists():
        from common.hardware import pick_device
        from models.classifier import build_model
        from models.heads import take_head

        side, channels = max(LEAST_SIDE, images.shape[1]), images.shape[3] if images.ndim == 4 else 1
        model = build_model(network, channels, side, outputs=1, weights="imagenet").eval().to(pick_device())
        take_head(model)
        _compute(path, name, rows, lambda part: _run_backbone(model, images[part], side))
    return _open(path, len(rows))


def kept_features(name: str, images: np.ndarray, key: str, network: str = "tf_efficientnet_lite0") -> np.ndarray | None:
    """The file of `frozen_features` for all these images, None if it is not computed yet."""
    path = _frozen_path(name, images, key, network, np.arange(len(images)))
    return _open(path, len(images)) if path.exists() else None


def _frozen_path(name: str, images: np.ndarray, key: str, network: str, rows: np.ndarray) -> Path:
    short = sha256(key, network, str(LEAST_SIDE), str(images.shape), rows.tobytes())[:10]
    return home() / "data" / "features" / f"{name}-{short}.npy"


def _open(path: Path, images: int) -> np.ndarray:
    try:
        features = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and it is computed again") from error
    if features.ndim != 2 or len(features) != images:
        raise ValueError(f"{path} holds an array {features.shape} for {images} images; delete it, and it is computed "
                         "again")
    return features


def _compute(path: Path, name: str, rows: np.ndarray, features_of: Callable[[np.ndarray], np.ndarray]) -> None:
    """Computes and writes batch by batch, so that memory does not grow with N."""
    with (replace_atomically(path) as temporary, temporary.open("wb") as file,
          tqdm(total=len(rows), desc=f"{name}, features", unit="image", disable=None) as bar):
        for first in range(0, len(rows), BATCH):
            features = features_of(rows[first:first + BATCH])
            if first == 0:
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), features.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(features, dtype="<f4").data)
            bar.update(len(features))


def _run_backbone(model: "Classifier", images: np.ndarray, side: int = 1) -> np.ndarray:
    """(n, D) features of uint8 images (n, H, W) or (n, H, W, 3), enlarged to `side` pixels, by a model without a head.
    """
    import torch

    with torch.inference_mode():
        batch = torch.from_numpy(images).to(model.mean.device)
        batch = batch[:, None] if batch.ndim == 3 else batch.permute(0, 3, 1, 2)
        if batch.shape[-1] < side or batch.shape[-2] < side:
            batch = torch.nn.functional.interpolate(batch.float(), size=(side, side), mode="bilinear",
                                                    align_corners=False)
        features = model(batch)
    if features.ndim != 2:
        raise ValueError(f"this network hands its head an array {tuple(features.shape)} and no vector an image; train "
                         "it as a whole, with head_fit=gradient and other stages than head")
    return features.float().cpu().numpy()
