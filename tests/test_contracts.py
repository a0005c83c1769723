"""What holds for every competition, experiment, network, metric, augmentation and view, whoever added it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR

from common.files import write_json
from competition import COMPETITIONS, Competition, Part
from experiment import EXPERIMENTS, Experiment
from models.classifier import OURS, build_model, check_network, count_parameters, head_modules, weight_layers
from models.reference_networks import LAYOUTS
from results.checkpoints import build_network, load_model, save_weights
from results.runs import Run, open_run, read_run
from scoring.metrics import METRICS, decide, score
from training.augmentation import AUGMENTATIONS, make_augmentation
from training.loop import predict_logits, train_one_epoch
from training.losses import CROSS_ENTROPY, PROBS
from training.optimization import EMA
from training.tta import VIEWS

LABELS = ("a", "b", "c")
GENERATOR = torch.Generator()


def random_images(channels: int, size: int, count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=GENERATOR.manual_seed(0))


# ---- experiments

# what makes a model, but for its size and its weights: experiments that differ in nothing of this share a test
MODELS = {(each.network, each.head, each.per_task): name for name, each in reversed(EXPERIMENTS.items())
          if each.network != "combined_pooled_000"}  # at 32 pixels that of combined_000
# pixels at which they are tried, as few as the networks work with
SIZES = {"cnn_a": 16, "cnn_c": 16, "cnn_d": 49, "cnn_e": 54, "lstm": 16, "mlp_a": 16, "mlp_b": 16}
LARGE = 10e6  # parameters: tried in grey, and not written to disk


def in_small(name: str) -> Experiment:
    """The experiment at few pixels; from scratch where its ImageNet weights are not on this machine."""
    experiment = EXPERIMENTS[name]
    try:
        check_network(experiment.network, experiment.weights)
        weights = experiment.weights
    except FileNotFoundError:
        weights = "none"
    return replace(experiment, weights=weights, image_size=SIZES.get(experiment.network, 32))


def on_meta(run: Run) -> torch.nn.Module:
    """The run's network with shapes and without numbers."""
    with torch.device("meta"):
        return build_network(run, weights="none")


def competition_of(channels: int) -> Competition:
    return Competition(name=f"colours{channels}", about="no images", task="multilabel", labels=LABELS, metric="roc_auc",
                       channels=channels, train=Part(table="train.csv", images="{image_id}.png"))


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")  # pretrained weights are written there once


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if "combined" in network else [])
                                  for (network, *_), name in MODELS.items()])
def test_an_experiments_network_learns_and_predicts_the_same_after_loading(
        name, channels, shared_home, monkeypatch):
    monkeypatch.setenv("STARTER_HOME", str(shared_home))
    experiment = in_small(name)
    run = open_run(competition_of(channels), name, channels, experiment, "no folds")
    shapes = on_meta(run)
    large = count_parameters(shapes) > LARGE
    if large and channels == 3:
        pytest.skip("large networks are tried in grey")
    torch.manual_seed(0)
    model = build_network(run)
    images = random_images(channels, experiment.image_size, 3)
    targets = torch.tensor([[1.0, 0.0, float("nan")], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])

    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer, ema = SGD(model.parameters(), 1e-2), EMA(model, experiment.ema_decay)
    loss = train_one_epoch(model, [(images, targets, None)], CROSS_ENTROPY["multilabel"], optimizer,
                           LambdaLR(optimizer, lambda step: 1.0), ema, experiment.max_grad_norm)
    assert np.isfinite(loss)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))

    logits = predict_logits(ema.model, [(images, None, None)], experiment.tta)
    assert logits.shape == (3, len(LABELS)) and logits.dtype == torch.float32 and logits.isfinite().all()
    alone = predict_logits(ema.model, [(image[None], None, None) for image in images], experiment.tta)
    torch.testing.assert_close(alone, logits, atol=1e-5, rtol=1e-4)

    if large:  # what a file would be read into
        assert {key: value.shape for key, value in shapes.state_dict().items()} == \
            {key: value.shape for key, value in ema.model.state_dict().items()}
        return
    save_weights(run, ema.model)
    write_json(run.folder / "result.json", {})
    again = predict_logits(load_model(read_run(run.folder)), [(images, None, None)], experiment.tta)
    torch.testing.assert_close(again, logits, atol=0, rtol=0)


@pytest.mark.parametrize("name", MODELS.values())
def test_each_parameter_is_in_one_layer_and_heads_are_last(name):
    """At the recipe's own size; as layer-wise rates and stages of training need it."""
    experiment = EXPERIMENTS[name]
    model = on_meta(Run(Path(), {"channels": 1, "labels": LABELS}, experiment))
    layers, heads = weight_layers(model), head_modules(model)
    placed = [id(parameter) for layer in layers for parameter in layer]
    assert sorted(placed) == sorted(map(id, model.parameters()))
    in_heads = {id(parameter) for head in heads for parameter in head.parameters()}
    of_heads = [layer for layer in layers if any(id(parameter) in in_heads for parameter in layer)]
    assert of_heads and of_heads == layers[-len(of_heads):]
    assert {id(parameter) for layer in of_heads for parameter in layer} == in_heads
    assert all(any(parameter.ndim >= 2 for parameter in layer) for layer in layers)


# ---- can it learn?

# what learns alike, whichever recipe trains it; at 32 pixels a last map is its own mean
LEARNERS = {(each.network, each.head): name for name, each in reversed(EXPERIMENTS.items())
            if not each.per_task and each.network not in ("combined_pooled_000", "vgg19_002")}
SOON = {*OURS, "mnasnet_100", "tf_efficientnet_lite0"} - {"darknet19_002"}  # the others take seconds
RATES = {"vgg16": 2e-4, "vgg19": 2e-4, "vgg19_002": 2e-4}  # deep and without batch norm


def sixteen_images(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise in which each of three labels brightens a quarter of its own; every combination twice."""
    targets = torch.tensor([[float(number >> label & 1) for label in range(3)] for number in range(16)])
    images, half = 128 + 32 * torch.randn((16, 1, size, size), generator=GENERATOR.manual_seed(0)), size // 2
    for label, (top, left) in enumerate([(0, 0), (0, half), (half, 0)]):
        images[:, 0, top : top + half, left : left + half] += 100 * targets[:, label, None, None]
    return images.clamp(0, 255).to(torch.uint8), targets


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if network in SOON else [pytest.mark.slow])
                                  for (network, _), name in LEARNERS.items()])
def test_a_network_learns_sixteen_images(name, shared_home, monkeypatch):
    """From chance, 0.69, to less than half of it in a hundred steps; those with batch norm need about ten."""
    monkeypatch.setenv("STARTER_HOME", str(shared_home))
    experiment = in_small(name)
    images, targets = sixteen_images(experiment.image_size)
    torch.manual_seed(0)
    model = build_model(experiment.network, 1, experiment.image_size, 3, weights=experiment.weights,
                        head=experiment.head).train()
    optimizer, losses = Adam(model.parameters(), RATES.get(experiment.network, 1e-3)), []
    while len(losses) < 100 and (not losses or losses[-1] >= 0.34):
        loss = CROSS_ENTROPY["multilabel"](model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5 and losses[-1] < 0.34, losses


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_names_things_that_are_there(name):
    experiment = EXPERIMENTS[name]
    assert experiment.augmentation in AUGMENTATIONS
    assert set(experiment.tta) <= set(VIEWS)
    assert experiment.weights == "none" or experiment.network not in OURS


def test_every_network_of_ours_has_an_experiment():
    assert {*OURS, *LAYOUTS} <= {experiment.network for experiment in EXPERIMENTS.values()}


# ---- competitions


@pytest.mark.parametrize("name", COMPETITIONS)
def test_a_competition_has_its_key_as_name_and_existing_references(name):
    competition = COMPETITIONS[name]
    assert competition.name == name and replace(competition) == competition
    assert competition.metric in METRICS
    assert competition.experiments and set(competition.experiments) <= set(EXPERIMENTS)
    assert competition.task in CROSS_ENTROPY and competition.task in PROBS


@pytest.mark.parametrize("name", COMPETITIONS)
def test_a_competitions_metric_can_score_its_task(name):
    competition = COMPETITIONS[name]
    targets = truth(competition.task, 60, len(competition.labels))
    assert np.isfinite(score(competition.metric, targets, np.clip(targets, 0.01, 0.99), competition.task))


@pytest.mark.parametrize("name", COMPETITIONS)
def test_no_experiment_of_a_competition_flips_where_left_and_right_differ(name):
    competition = COMPETITIONS[name]
    for experiment in map(EXPERIMENTS.get, competition.experiments):
        assert not competition.laterality or not {"hflip", "vflip", "rotate90"} & set(experiment.tta)
        assert not competition.laterality or "flip" not in experiment.augmentation


# ---- metrics


def truth(task: str, count: int, labels: int) -> np.ndarray:
    """(count, labels) 0 and 1, every label of both kinds; for multiclass one-hot."""
    rng = np.random.default_rng(0)
    if task == "multiclass":
        return np.eye(labels)[rng.permutation(count) % labels]
    return (rng.permuted(np.tile(np.arange(count)[:, None], labels), axis=0) < count // 3).astype(float)


def noise_like(targets: np.ndarray, task: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.dirichlet(np.ones(targets.shape[1]), len(targets)) if task == "multiclass" else rng.random(targets.shape)


TASKS = {"binary": 1, "multiclass": 3, "multilabel": 4}


def can_score(name: str, task: str) -> bool:
    """Some scores mean nothing for some tasks, and must say so."""
    try:
        score(name, truth(task, 60, TASKS[task]), truth(task, 60, TASKS[task]), task)
    except ValueError:
        return False
    return True


PAIRS = [(name, task) for name in METRICS for task in TASKS if can_score(name, task)]


def test_every_metric_has_a_task_and_every_task_metrics():
    assert {name for name, _ in PAIRS} == set(METRICS)
    for task in TASKS:
        assert {METRICS[name].uses for name, each in PAIRS if each == task} == {"probs", "decisions"}


@pytest.mark.parametrize("name, task", PAIRS)
def test_a_metric_is_best_on_perfect_predictions(name, task):
    targets = truth(task, 300, TASKS[task])
    rng = np.random.default_rng(1)
    sign = 1 if METRICS[name].greater_is_better else -1
    perfect = score(name, targets, targets, task)
    best = 1 if sign == 1 else 0
    if name == "f1_samples":  # by scikit-learn's rule, a row without labels scores 0 whatever is decided
        best = (targets.sum(axis=1) > 0).mean()
    assert perfect == pytest.approx(best, abs=1e-6)
    for blur in (0.3, 0.6, 1.0):
        noisy = (1 - blur) * targets + blur * rng.uniform(0, 1, targets.shape)
        noisy = noisy / noisy.sum(axis=1, keepdims=True) if task == "multiclass" else noisy
        assert sign * score(name, targets, noisy, task) <= sign * perfect
    assert sign * score(name, targets, noisy, task) < sign * perfect


@pytest.mark.parametrize("name, task", PAIRS)
def test_a_metric_is_at_chance_level_on_noise(name, task):
    """Chance by permutation: predictions dealt to other images at random score what unrelated ones do."""
    count = 20_000 if name != "quadratic_kappa" else 5_000
    targets = truth(task, count, TASKS[task])
    noise = noise_like(targets, task)
    value = score(name, targets, noise, task)
    shuffled = score(name, targets, noise[np.random.default_rng(2).permutation(count)], task)
    assert value == pytest.approx(shuffled, abs=0.03)
    rate = 1 / 3  # of positives, here
    chance = {"roc_auc": 0.5, "average_precision": rate, "balanced_accuracy": 1 / 3 if task == "multiclass" else 0.5,
              "quadratic_kappa": 0.0, "accuracy": 1 / 3 if task == "multiclass" else 0.5}
    if name in chance:
        assert value == pytest.approx(chance[name], abs=0.02)


@pytest.mark.parametrize("name, task", PAIRS)
def test_a_metric_leaves_out_what_nobody_knows(name, task):
    targets = truth(task, 90, TASKS[task])
    probs = noise_like(targets, task)
    known = np.arange(90) % 3 > 0
    blanked = np.where(known[:, None], targets, np.nan)
    assert score(name, blanked, probs, task) == pytest.approx(score(name, targets[known], probs[known], task))


@pytest.mark.parametrize("name, task", PAIRS)
def test_a_metric_is_undefined_where_nothing_can_be_scored(name, task):
    assert np.isnan(score(name, np.full((5, TASKS[task]), np.nan), np.full((5, TASKS[task]), 0.5), task))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_listed_under_its_own_name(name):
    assert METRICS[name].name == name and METRICS[name].title


def test_decisions_of_every_task_are_zeros_and_ones():
    for task, labels in TASKS.items():
        decided = decide(np.full((4, labels), 0.4), None if task == "multiclass" else 0.5, task)
        assert set(np.unique(decided)) <= {0, 1} and decided.shape == (4, labels)


# ---- augmentations


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 3), (33, 33)])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_is_pure_and_keeps_shape_and_type(name, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    before = image.copy()
    image.setflags(write=False)
    augment = make_augmentation(name, shape[0])
    first = [augment(image, seed) for seed in range(8)]
    again = [augment(image, seed) for seed in reversed(range(8))][::-1]
    for one, other in zip(first, again, strict=True):
        assert one.shape == shape and one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(image, before)
    different = len({one.tobytes() for one in first})
    assert different == 1 if name == "none" else different >= 7


# ---- views


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_keeps_shape_and_type_and_its_input(name, channels):
    images = random_images(channels, 64)
    before = images.clone()
    seen = VIEWS[name](images)
    assert seen.shape == images.shape and seen.dtype == images.dtype
    assert torch.equal(images, before)
    assert torch.equal(seen, images) == (name == "identity")
    assert torch.equal(VIEWS[name](images), seen)


def test_the_views_of_an_experiment_are_averaged():
    model = build_network(Run(Path(), {"channels": 1, "labels": LABELS}, Experiment(network="mlp_a")))
    torch.nn.init.normal_(head_modules(model)[0].weight)  # it starts at zero, where all views have the same logits
    images, views = [(random_images(1, 64), None, None)], tuple(VIEWS)
    single = torch.stack([predict_logits(model, images, (view,)) for view in views])
    assert single.std(dim=0).min() > 1e-3
    torch.testing.assert_close(predict_logits(model, images, views), single.mean(dim=0))
