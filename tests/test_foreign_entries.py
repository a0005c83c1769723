"""An entry added to a registry is accepted by --set, listed by --fields, trained, previewed and predicted."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import make_folds
import predict
import preview
import train
from common.settings import Choice
from data.demo import DemoSettings, make_demo
from data.labels import UNCERTAIN_POLICIES, Policy
from data.preprocessing import PREPROCESSING
from experiment import Experiment
from models.architectures import NETWORKS, Network
from models.reference_networks import HEADS
from results.runs import read_run
from training.augmentation import AUGMENTATIONS, Augmentation, make_augmentation
from training.fitted_heads import HEAD_FITS, HeadFit
from training.losses import LOSSES, Loss
from training.mixup import MIXES
from training.optimization import OPTIMIZERS, SCHEDULES, Schedule
from training.recipe_checks import check_values, describe_fields
from training.sampling import SAMPLERS, Sampler
from training.tta import VIEWS, View


class Darker:
    """A preprocessing step."""

    before_fitting = False

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return image // 2

    def __repr__(self) -> str:
        return "Darker()"


def small(channels: int, image_size: int, outputs: int) -> Network:
    return Network({"pool": nn.AdaptiveAvgPool2d(4), "flatten": nn.Flatten(),
                    "output": nn.Linear(16 * channels, outputs)})


def squared(logits: torch.Tensor, targets: torch.Tensor, task: str, weights: None, power: float) -> torch.Tensor:
    known = ~targets.isnan()
    return ((logits.float().sigmoid() - targets.nan_to_num()).abs() ** power * known).sum() / known.sum().clamp(min=1)


def add_entries(patch: pytest.MonkeyPatch, calls: set[str]) -> None:
    """One entry of ours in every registry; a call of its `build` is noted under the field's name."""

    def noted(field: str, build: Callable) -> Callable:
        def call(*inputs):
            calls.add(field)
            return build(*inputs)
        return call

    entries = {
        "loss": (LOSSES, Loss(build=noted("loss", squared), arguments=("POWER",))),
        "augmentation": (AUGMENTATIONS, Augmentation(
            build=lambda size, most: noted("augmentation", lambda image, seed: np.roll(image, seed % int(most), 1)),
            arguments=("MOST",))),
        "mix": (MIXES, Choice(build=noted("mix", lambda images, others, rng: ((images + others) / 2, 0.5)))),
        "schedule": (SCHEDULES, Schedule(build=noted("schedule", lambda step, steps, an_epoch, warmup: 0.5))),
        "optimizer": (OPTIMIZERS, Choice(build=noted("optimizer", lambda groups, lr: torch.optim.RMSprop(groups, lr)))),
        "sampler": (SAMPLERS, Sampler(
            arguments=("TIMES",),
            build=noted("sampler", lambda positive, repeats, times: np.full(len(positive), times)))),
        "tta": (VIEWS, View(build=noted("tta", lambda images, by: images.roll(int(by), 3)), arguments=("BY",))),
        "uncertain": (UNCERTAIN_POLICIES, Policy(build=noted("uncertain", lambda certain, predicted: 0.3))),
    }
    for registry, entry in entries.values():
        patch.setitem(registry, "own", entry)
    patch.setitem(PREPROCESSING, "own", Darker())
    patch.setitem(NETWORKS, "own", small)
    make_augmentation.cache_clear()


OWN = ["network=own", "loss=own:1.5", "augmentation=own:5", "mix=own", "schedule=own", "optimizer=own",
       "sampler=own:2", "tta=identity,own:3", "uncertain=own", "preprocessing=own", "epochs=1", "image_size=16"]


@pytest.fixture
def demo(home):
    make_demo(home / "data" / "demo", DemoSettings(images=40, test_images=6))
    make_folds.main(["--folds", "2"])
    return home


def test_own_entries_are_trained_previewed_and_predicted(demo, monkeypatch):
    calls = set()
    add_entries(monkeypatch, calls)
    for fold in ("0", "1"):
        train.main(["--experiment", "cnn_d", "--set", *OWN, "--name", "own", "--fold", fold])
    assert calls == {"loss", "augmentation", "mix", "schedule", "optimizer", "sampler", "tta", "uncertain"}
    result = read_run(demo / "runs" / "demo" / "own" / "fold0").result
    assert result["epoch_length"] == 2 * result["trained_on"]
    calls.clear()
    preview.main(["--experiment", "cnn_d", "--set", *OWN, "--name", "own"])
    assert "augmentation" in calls
    calls.clear()
    predict.main(["--experiment", "own"])
    assert calls == {"tta"}


def test_own_heads_are_trained(demo, monkeypatch):
    monkeypatch.setitem(HEADS, "own", Choice(build=lambda features, width: (
        {"own": nn.Linear(features, int(width)), "tanh": nn.Tanh()}, int(width)), arguments=("WIDTH",)))
    timm = ["network=test_resnet", "epochs=1", "image_size=32"]
    train.main(["--experiment", "cnn_d", "--set", *timm, "head=own:5", "--name", "head", "--fold", "0"])
    assert (demo / "runs" / "demo" / "head" / "fold0" / "result.json").exists()


def test_own_fits_of_a_head_are_made_and_predict(demo, monkeypatch):
    def fit(examples, task: str, parts: np.ndarray) -> nn.Linear:
        head = nn.Linear(examples.features.shape[1], examples.targets.shape[1])
        nn.init.constant_(head.weight, 1e-3)
        return head

    monkeypatch.setitem(HEAD_FITS, "own", HeadFit(build=fit))
    train.main(["--experiment", "logistic_pixels", "--set", "head_fit=own", "image_size=16", "--name", "fit",
                "--fold", "0"])
    assert (demo / "runs" / "demo" / "fit" / "fold0" / "result.json").exists()


def test_own_entries_are_listed_and_their_arguments_checked(monkeypatch):
    add_entries(monkeypatch, set())
    described = {field.name: field.values for field in describe_fields()}
    assert "own:POWER" in described["loss"] and "own" in described["preprocessing"]
    with pytest.raises(ValueError, match="loss: there is no 'own'; did you mean 'own:POWER'?"):
        check_values(Experiment(loss="own"))


def test_every_field_is_described():
    described = {field.name: field for field in describe_fields()}
    assert list(described) == list(vars(Experiment()))
    assert described["loss"].values[:2] == ("cross_entropy", "focal:GAMMA") and described["loss"].meaning
    assert described["per_task"].values == ("true", "false") and described["lr"].default == "0.001"


@pytest.mark.parametrize("change, found", [
    (lambda image, seed: image / 255, "float64 \\(64, 64\\)"),
    (lambda image, seed: image[:32], "uint8 \\(32, 64\\)")])
def test_an_augmentation_of_another_type_or_size_raises(demo, monkeypatch, change, found):
    monkeypatch.setitem(AUGMENTATIONS, "own", Augmentation(build=lambda image_size: change))
    make_augmentation.cache_clear()
    for script in (preview, train):
        with pytest.raises(ValueError, match=f"augmentation=own made {found}"):
            script.main(["--experiment", "cnn_d", "--set", "augmentation=own", "--name", "wrong",
                         *(["--fold", "0"] if script is train else [])])
