"""Every field of an Experiment reaches training or prediction: changed, it changes what a run leaves."""

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import NamedTuple

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
STEADY = {"schedule": "constant", "warmup": 0.0}  # so that the number of steps does not change the learning rate
STOPPED = {"epochs": 4, "val_fraction": 0.2, "patience": 9, "lr": 1e-12}
FROZEN = {"network": "test_resnet", "image_size": 32, "stages": ("head:2:1e-3",)}
FITTED = {"network": "pixels", "epochs": 1, "ema_decay": 0.0}
# fields of a run; values of some of them in the run that it is compared with, where all others are as in BASE; and what
# must differ between the two, the weights where nothing is named
CASES = [
    ({"network": "mlp_a"}, {}), ({"weights": "run:start"}, {}), ({**TIMM, "head": "hidden:8"}, TIMM),
    ({**FITTED, "head_fit": "logistic"}, FITTED), ({"per_task": True}, {}), ({"image_size": 24}, {}),
    ({"colour": "rgb"}, {}), ({"resize_mode": "letterbox"}, {}), ({"preprocessing": ("equalize",)}, {}),
    ({**TIMM, "dropout": 0.5}, TIMM), ({**FROZEN, "dropout": 0.5}, FROZEN), ({"augmentation": "warp"}, {}),
    ({"mix": "mixup:1"}, {}), ({"loss": "focal:2"}, {}), ({"label_smoothing": 0.1}, {}), ({"epochs": 3}, {}, "epochs"),
    ({**STEADY, "batch_size": 16}, STEADY), ({"accumulate": 2}, {}), ({"optimizer": "sgd"}, {}), ({"lr": 3e-3}, {}),
    ({"layer_decay": 0.5}, {}), ({"schedule": "constant"}, {}), ({"warmup": 0.9}, {}),
    ({"warmup": 0.9}, {"warmup": 0.0}), ({"schedule": "constant", "warmup": 0.9}, STEADY),
    ({"stages": ("head:1:1e-3", "all:1:1e-3")}, {"stages": ("all:1:1e-3", "all:1:1e-3")}),
    ({**STOPPED, "val_fraction": 0.4}, STOPPED), ({**STOPPED, "patience": 1}, STOPPED, "epochs"),
    ({"weight_decay": 0.5}, {}), ({"weight_decay": 0.5}, {"weight_decay": 0.0}), ({"ema_decay": 0.0}, {}),
    ({"snapshots": (1,)}, {}, "snapshots"), ({"max_grad_norm": 1e-3}, {}), ({"precision": "bf16"}, {}),
    ({"uncertain": ("ones",)}, {}), ({"uncertain": ("uniform:0.4:0.9",)}, {"uncertain": ("uniform:0.6:0.7",)}),
    ({"missing_labels": ("zeros",)}, {}), ({"constant_images": "keep"}, {}), ({"sampler": "balanced"}, {}),
    ({"sampler": "label_repeats", "label_repeats": ("effusion=3",)},
     {"sampler": "label_repeats", "label_repeats": ("effusion=1",)}),
    ({"loss_weights": "balanced"}, {}), ({"split": 1}, {}), ({"split": 1}, {}, "images"),
    ({"tta": ("identity", "zoom_in")}, {}, "predictions"), ({"seed": 1}, {}),
]


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
        train_one(Experiment(**BASE), "start")
        yield home


def _cut(path: Path) -> None:
    """The upper three quarters of an image file."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), image[: image.shape[0] * 3 // 4])


class Trained(NamedTuple):
    """What a run leaves; of files their hashes."""

    weights: str
    predictions: str
    images: list[str]
    epochs: int
    snapshots: list[str]


@cache
def train_one(experiment: Experiment, name: str = "") -> Trained:
    """Trains fold 0, once for equal experiments. name: of the run; by default a hash of the experiment."""
    name = name or sha256(repr(experiment).encode())[:16]
    data = run_folder(DEMO, name).parents[2] / "data" / "demo"
    table = attach_folds(DEMO, read_train(DEMO, data)[0], read_folds(DEMO))
    run = open_run(DEMO, name, 0, experiment, read_folds(DEMO).hash)
    result = train_fold(run, DEMO, table, threads=1)
    snapshots = [sha256(path.read_bytes()) for path in run.folder.parent.parent.glob(f"{name}_epoch*/fold0/oof.csv")]
    oof = (run.folder / "oof.csv").read_bytes()
    images = [line.partition(",")[0] for line in oof.decode().splitlines()]
    return Trained(result["weights_sha256"], sha256(oof), images, result["epochs"], snapshots)


def test_every_field_has_a_case():
    changed = {name for one, other, *_ in CASES for name, value in one.items() if other.get(name) != value}
    assert changed == {field.name for field in fields(Experiment)}


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_changed_field_changes_the_run(shared_home, number):
    one, other, *parts = CASES[number]
    trained, compared = (train_one(Experiment(**{**BASE, **given})) for given in (one, other))
    for part in parts or ["weights"]:
        assert getattr(trained, part) != getattr(compared, part), one


def test_views_change_predictions_and_not_weights(shared_home):
    plain = train_one(Experiment(**BASE))
    viewed = train_one(Experiment(**BASE, tta=("identity", "zoom_in")))
    assert plain.weights == viewed.weights and plain.predictions != viewed.predictions
