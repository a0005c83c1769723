"""Every field of an Experiment reaches training or prediction: off its default, it changes what a run leaves."""

from dataclasses import fields
from pathlib import Path

import pytest

import make_folds
from common.files import sha256
from competition import COMPETITIONS
from data.demo import DemoSettings, make_demo
from data.folds import attach_folds, read_folds
from data.tables import read_train
from experiment import Experiment
from results.runs import open_run, run_folder
from training.fold import train_fold

DEMO = COMPETITIONS["demo"]
BASE = {"network": "mlp_b", "image_size": 16, "epochs": 2, "batch_size": 8}
TIMM = {"network": "test_resnet", "image_size": 32, "epochs": 1}
STOPPED = {"epochs": 4, "val_fraction": 0.2, "patience": 9, "lr": 1e-12}
# field -> (a value off its default, the other fields with which it has an effect)
CHANGES = {
    "network": ("mlp_a", {}), "weights": ("run:start", {}), "head": ("hidden:8", TIMM),
    "head_fit": ("logistic", {"network": "pixels"}), "per_task": (True, {}), "image_size": (24, {}),
    "colour": ("rgb", {}), "resize_mode": ("letterbox", {}), "preprocessing": (("equalize",), {}),
    "dropout": (0.5, TIMM), "augmentation": ("warp", {}), "mix": ("mixup:1", {}), "loss": ("focal:2", {}),
    "label_smoothing": (0.1, {}), "epochs": (3, {}), "batch_size": (16, {}), "accumulate": (2, {}),
    "optimizer": ("sgd", {}), "lr": (3e-3, {}), "layer_decay": (0.5, {}), "schedule": ("constant", {}),
    "warmup": (0.9, {}), "stages": (("head:1:1e-3", "all:1:1e-3"), {}), "val_fraction": (0.4, STOPPED),
    "patience": (1, STOPPED), "weight_decay": (0.5, {}), "ema_decay": (0.0, {}), "snapshots": ((1,), {}),
    "max_grad_norm": (1e-3, {}), "precision": ("bf16", {}), "uncertain": (("ones",), {}),
    "missing_labels": (("zeros",), {}), "constant_images": ("keep", {}), "sampler": ("balanced", {}),
    "label_repeats": (("effusion=3",), {"sampler": "label_repeats"}), "loss_weights": ("balanced", {}),
    "split": (1, {}), "tta": (("identity", "zoom_in"), {}), "seed": (1, {}),
}
OTHERWISE = {"patience": 9, "val_fraction": 0.2, "label_repeats": ("effusion=1",)}  # where the default is not allowed


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """A demo whose images are not square, with folds in two splits."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STARTER_HOME", str(home))
        make_demo(home / "data" / "demo", DemoSettings(images=60, test_images=4))
        for path in (home / "data" / "demo" / "train").glob("*"):
            _cut(path)
        make_folds.main(["--repeats", "2"])
        train_one("start", Experiment(**BASE))
        yield home


def _cut(path: Path) -> None:
    """The upper three quarters of an image file."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), image[: image.shape[0] * 3 // 4])


def train_one(name: str, experiment: Experiment) -> tuple:
    """Trains fold 0; returns hashes of its weights and predictions, its epochs, and the runs it leaves."""
    data = run_folder(DEMO, name).parents[2] / "data" / "demo"
    table = attach_folds(DEMO, read_train(DEMO, data)[0], read_folds(DEMO))
    run = open_run(DEMO, name, 0, experiment, read_folds(DEMO).hash)
    result = train_fold(run, DEMO, table, threads=1)
    snapshots = sorted(path.name.removeprefix(name) for path in run.folder.parent.parent.glob(f"{name}_epoch*"))
    return result["weights_sha256"], sha256((run.folder / "oof.csv").read_bytes()), result["epochs"], snapshots


@pytest.mark.parametrize("field", [field.name for field in fields(Experiment)])
def test_a_field_off_its_default_changes_the_run(shared_home, field):
    value, others = CHANGES[field]
    plain = {**BASE, **others}
    if field in OTHERWISE:
        plain[field] = OTHERWISE[field]
    changed = Experiment(**{**plain, field: value})
    assert getattr(changed, field) != getattr(Experiment(), field)
    assert train_one(f"{field}_plain", Experiment(**plain)) != train_one(f"{field}_changed", changed)


@pytest.mark.parametrize("field", ["tta"])
def test_views_change_predictions_and_not_weights(shared_home, field):
    weights, predictions, *_ = train_one("views_plain", Experiment(**BASE))
    again, viewed, *_ = train_one("views_changed", Experiment(**BASE, tta=("identity", "zoom_in")))
    assert weights == again and predictions != viewed
