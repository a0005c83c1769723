"""Experiments: changed on the command line with types checked, saved as JSON and read back as they were."""

import json
import re
from dataclasses import dataclass, fields, replace
from typing import Literal

import pytest

from common.settings import by_label, for_labels, override, patterns, read_value
from data.labels import MISSING_POLICIES, UNCERTAIN_POLICIES
from experiment import EXPERIMENTS, REPEATS, Experiment, Stage, from_recipe, to_recipe
from training.losses import LOSSES
from training.optimization import SCHEDULES
from training.recipe_checks import check_values


@pytest.mark.parametrize("assignment, name, value", [
    ("epochs=3", "epochs", 3),
    ("lr=1e-3", "lr", 0.001),
    ("lr=3", "lr", 3.0),
    ("network=resnet18", "network", "resnet18"),
    ("per_task=true", "per_task", True),
    ("per_task=False", "per_task", False),
    ("weights=imagenet", "weights", "imagenet"),
    ("tta=identity,flip", "tta", ("identity", "flip")),
    ("tta=identity", "tta", ("identity",)),
    ("uncertain=ones", "uncertain", ("ones",)),
    ("uncertain=zeros,Edema=ones", "uncertain", ("zeros", "Edema=ones")),
    ("uncertain=mean, Lung Lesion=uniform:0.55:0.85", "uncertain", ("mean", "Lung Lesion=uniform:0.55:0.85")),
    ("uncertain=self:lite0_lr=1e-3", "uncertain", ("self:lite0_lr=1e-3",)),
    ("missing_labels=zeros", "missing_labels", ("zeros",)),
    ("split=2", "split", 2),
])
def test_a_value_is_read_as_its_fields_type(assignment, name, value):
    changed = getattr(override(Experiment(), [assignment]), name)
    assert changed == value and type(changed) is type(value)


def test_values_are_read_as_the_fields_type():
    @dataclass(frozen=True)
    class Description:
        sizes: tuple[int, ...] = ()
        channels: Literal[1, 3] = 1

    assert override(Description(), ["sizes=64,128", "channels=3"]) == Description((64, 128), 3)


def test_a_plan_is_one_stage_where_none_are_named():
    assert Experiment(epochs=3, lr=2e-4).plan == (Stage("all", 3, 2e-4),)
    staged = override(Experiment(), ["stages=head:4:1e-3,last8:2:0.0005,all:6:1e-5", "epochs=12"])
    assert staged.plan == (Stage("head", 4, 1e-3), Stage("last8", 2, 5e-4), Stage("all", 6, 1e-5))


def test_a_value_with_numbers_is_taken_apart():
    value = read_value("loss", "asymmetric:4:1:0.05", LOSSES)
    assert (value.name, value.choice, value.arguments) == ("asymmetric", LOSSES["asymmetric"], (4.0, 1.0, 0.05))
    assert read_value("schedule", "cosine", SCHEDULES).arguments == ()


def test_overriding_changes_only_what_is_named_and_the_last_word_counts():
    assert override(EXPERIMENTS["lite0"], ["seed=1", "seed=2"]) == replace(EXPERIMENTS["lite0"], seed=2)
    assert override(EXPERIMENTS["lite0"], []) == EXPERIMENTS["lite0"]


@pytest.mark.parametrize("assignment, message", [
    ("lrr=1", "no setting 'lrr'; did you mean 'lr'?"),
    ("batchsize=1", "did you mean 'batch_size'?"),
    ("qqqqqq=1", "no setting 'qqqqqq'; there are network, weights"),
    ("__post_init__=1", "no setting '__post_init__'"),
    ("lr", "'lr' is not NAME=VALUE"),
    ("epochs=2.5", "epochs=2.5: must be a whole number"),
    ("epochs=", "epochs=: must be a whole number"),
    ("lr=fast", "lr=fast: must be a number"),
    ("per_task=1", "per_task=1: must be true or false"),
    ("weights=imagnet", "weights: there is no 'imagnet'; did you mean 'imagenet'? There are none, imagenet, run:NAME"),
    ("weights=net.pickle", "weights: there is no 'net.pickle'"),
    ("loss=focal", "loss: there is no 'focal'; did you mean 'focal:GAMMA'?"),
    ("loss=focal:-1", "loss: there is no 'focal:-1'"),
    ("loss=focl", "loss: there is no 'focl'; did you mean 'focal:GAMMA'?"),
    ("augmentation=wrap", "augmentation: there is no 'wrap'; did you mean 'warp'?"),
    ("tta=identity,flip", "tta: there is no 'flip'; did you mean"),
    ("sampler=balance", "sampler: there is no 'balance'; did you mean 'balanced'?"),
    ("optimizer=sdg", "optimizer: there is no 'sdg'; did you mean 'sgd'?"),
    ("head_fit=sv", "head_fit: there is no 'sv'; did you mean 'svc'?"),
    ("preprocessing=clahee", "preprocessing: there is no 'clahee'; did you mean 'clahe'?"),
    ("mix=mixup:0", "mix=mixup:0: ALPHA must be above 0"),
    ("loss=auc_margin:0", "MARGIN must be above 0"),
    ("schedule=step:1.5:0.5", "EPOCHS must be at least 1, a whole number"),
    ("mix=mixup:", "mix: there is no 'mixup:'"),
    ("schedule=stepp:1:0.5", "did you mean 'step:EPOCHS:FACTOR'?"),
    ("stages=head:5", "stages: there is no 'head:5'; did you mean 'head:EPOCHS:LR'?"),
    ("stages=head:5:1e-3,all:4:1e-4", "are 9 epochs, but epochs is 10; set epochs=9"),
    ("stages=head:0:1e-3,all:10:1e-4", "every stage needs at least one epoch"),
    ("patience=3", "use the score on a part of the training folds"),
    ("schedule=plateau:3:0.1", "use the score on a part of the training folds"),
    ("val_fraction=0.1", "use the score on a part of the training folds"),
    ("val_fraction=0.6", "val_fraction must be 0 or in [0.01, 0.5]"),
    ("schedule=step:0:0.5", "EPOCHS must be at least 1"),
    ("schedule=step:1:0", "FACTOR in (0, 1]"),
    ("head=hidden:0", "WIDTH must be a whole number of at least 1"),
    ("layer_decay=0", "layer_decay must be in (0, 1]"),
    ("accumulate=0", "accumulate must be at least 1"),
    ("accumulate=17", "batch norm needs at least two images in each part"),
    ("label_smoothing=1", "label_smoothing must be in [0, 1)"),
    ("head=hidden", "head: there is no 'hidden'; did you mean 'hidden:WIDTH'?"),
    ("lr=0", "lr must be above 0, not 0.0"),
    ("lr=nan", "lr must be above 0, not nan"),
    ("lr=inf", "lr must be above 0, not inf"),
    ("max_grad_norm=0", "max_grad_norm must be above 0"),
    ("weight_decay=-1", "weight_decay must be 0 or more"),
    ("seed=-1", "seed must be 0 or more"),
    ("image_size=0", "image_size must be at least 1"),
    ("epochs=-1", "epochs must be at least 1"),
    ("dropout=1", "dropout must be in [0, 1), not 1.0"),
    ("ema_decay=1", "ema_decay must be in [0, 1), not 1.0"),
    ("warmup=nan", "warmup must be in [0, 1), not nan"),
    ("tta=", "tta must have at least one entry"),
    ("split=-1", "split must be 0 or more"),
    ("uncertain=", "uncertain must have at least one entry"),
    ("missing_labels=", "missing_labels must have at least one entry"),
    ("uncertain=zeross", "uncertain: there is no 'zeross'; did you mean 'zeros'?"),
    ("uncertain=ones,Edema=meen", "uncertain: there is no 'meen'; did you mean 'mean'?"),
    ("uncertain=qqq", "uncertain: there is no 'qqq'. An entry"),
    ("uncertain=uniform", "uncertain: there is no 'uniform'; did you mean 'uniform:LOW:HIGH'?"),
    ("uncertain=uniform:0.5", "uncertain: there is no 'uniform:0.5'; did you mean 'uniform:LOW:HIGH'?"),
    ("uncertain=uniform:0.9:0.1", "uniform:0.9:0.1: must have 0 <= LOW <= HIGH <= 1"),
    ("uncertain=uniform:0.5:1.5", "uniform:0.5:1.5: must have 0 <= LOW <= HIGH <= 1"),
    ("uncertain=self:", "uncertain: there is no 'self:'; did you mean 'self:RUN'?"),
    ("uncertain=ones,zeros", "uncertain: all labels has two values, ones and zeros"),
    ("uncertain=Edema=ones,Edema=zeros", "uncertain: 'Edema' has two values, ones and zeros"),
    ("missing_labels=ones", "missing_labels: there is no 'ones'"),
    ("sampler=label_repeats", "sampler=label_repeats with label_repeats=(none)"),
    ("label_repeats=Hernia=3", "sampler=natural with label_repeats=Hernia=3"),
    ("label_repeats=3", "label_repeats: '3' names no label"),
    ("label_repeats=Hernia=-1", "label_repeats: there is no '-1'"),
    ("label_repeats=Hernia=1.5", "label_repeats: there is no '1.5'"),
])
def test_a_wrong_value_raises_with_advice(assignment, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_values(override(Experiment(), [assignment]))


@pytest.mark.parametrize("name", [field.name for field in fields(Experiment) if "Literal" in str(field.type)])
def test_experiment_py_checks_choices_too(name):
    with pytest.raises(ValueError, match=f"{name} must be one of .* not 'imagnet'"):
        replace(Experiment(), **{name: "imagnet"})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_recipe_comes_back_through_json_as_it_was(name):
    experiment = EXPERIMENTS[name]
    assert from_recipe(json.loads(json.dumps(to_recipe(experiment)))) == experiment


def test_a_changed_recipe_comes_back_through_json_as_it_was():
    changed = override(Experiment(), ["tta=identity,flip", "lr=0.1", "constant_images=keep", "per_task=true"])
    assert from_recipe(json.loads(json.dumps(to_recipe(changed)))) == changed


def test_a_recipe_with_an_unknown_field_raises():
    with pytest.raises(ValueError, match=re.escape("has the fields ['teacher']")):
        from_recipe({**to_recipe(Experiment()), "teacher": "uniform"})


def test_a_recipe_from_before_a_field_existed_has_its_default():
    recipe = to_recipe(Experiment(lr=0.5))
    del recipe["seed"]
    assert from_recipe(recipe) == Experiment(lr=0.5)


@pytest.mark.parametrize("entry, label, value", [
    ("ones", "", "ones"),
    ("Lung Lesion=ones", "Lung Lesion", "ones"),
    ("a=b=ones", "a=b", "ones"),
    ("self:lite0_lr=3", "", "self:lite0_lr=3"),
    ("Edema=self:lite0_lr=3", "Edema", "self:lite0_lr=3"),
    ("uniform:0:1", "", "uniform:0:1"),
    ("Edema=uniform:.5:1.", "Edema", "uniform:.5:1."),
])
def test_an_entry_is_a_value_or_a_label_with_its_value(entry, label, value):
    assert by_label("uncertain", [entry], patterns(UNCERTAIN_POLICIES)) == {label: value}


def test_a_label_has_its_own_the_common_or_the_default_value():
    labels, known = ("Edema", "Mass", "Lung Lesion"), patterns(UNCERTAIN_POLICIES)
    assert for_labels("uncertain", ("Mass=ones", "zeros"), labels, known, "ignore") == ("zeros", "ones", "zeros")
    assert for_labels("uncertain", ("Lung Lesion=mean",), labels, known, "ignore") == ("ignore", "ignore", "mean")
    assert for_labels("label_repeats", ("Mass=10",), labels, REPEATS, "0") == ("0", "10", "0")


@pytest.mark.parametrize("name, known, value", [
    ("uncertain", patterns(UNCERTAIN_POLICIES), "zeros"), ("missing_labels", patterns(MISSING_POLICIES), "zeros"),
    ("label_repeats", REPEATS, "3")])
def test_an_unknown_label_raises_with_the_nearest(name, known, value):
    message = f"{name} names the label 'Edma', which does not exist; did you mean 'Edema'?"
    with pytest.raises(ValueError, match=re.escape(message)):
        for_labels(name, (f"Edma={value}",), ("Edema", "Mass"), known, "")
    with pytest.raises(ValueError, match="'qqq', which does not exist; there are Edema, Mass"):
        for_labels(name, (f"qqq={value}",), ("Edema", "Mass"), known, "")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_values_of_its_registries(name):
    check_values(EXPERIMENTS[name])


def test_no_two_experiments_are_the_same():
    assert len(set(EXPERIMENTS.values())) == len(EXPERIMENTS)
