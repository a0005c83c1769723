"""The list of networks, summaries with FLOPs counted by hand, and diagrams."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from torch import nn

import show_networks
from experiment import EXPERIMENTS, Experiment
from models.architectures import NETWORKS, Network
from models.classifier import build_model, count_parameters
from models.summary import summarize


@pytest.mark.parametrize("network", [*NETWORKS, "cnn_002", "darknet19_002", "resnet18", "densenet121", "vgg11",
                                     "efficientnet_b0", "vit_tiny_patch16_224"])
def test_stages_hold_all_parameters_and_end_in_the_logits(network):
    size = 224 if "vit" in network else 64
    summary = summarize(network, 1, size, 3)
    stages = [stage for row in summary.rows for stage in row]
    beside = 192 + 192 * 197 if "vit" in network else 0  # class token and position embeddings stand in no layer
    assert sum(stage.parameters for stage in stages) + beside == summary.parameters
    assert summary.parameters == count_parameters(build_model(network, 1, size, 3)) and stages[-1].shape == (3,)


@pytest.mark.parametrize("network, flops", [
    # two a weight and a place: (kernel² x in x out x places)
    ("cnn_d", 2 * (25 * 1 * 32 * 60**2 + 25 * 32 * 64 * 8**2 + 64 * 1024 + 1024 * 3)),
    ("mlp_a", 2 * (4096 * 256 + 256 * 256 + 256 * 3)),
    ("lstm", 2 * (64 * 512 * (64 + 128) + 64 * 512 * (128 + 128) + 8192 * 64 + 64 * 3)),
])
def test_flops_are_those_counted_by_hand(network, flops):
    assert summarize(network, 1, 64, 3).flops == flops


def test_stages_are_described():
    conv1, conv2, pool2, *_ = [row[0] for row in summarize("cnn_e", 1, 64, 3).rows]
    assert (conv1.name, conv1.description, conv1.shape, conv1.parameters) == (
        "conv1", "Conv2d 3x3 · ReLU", (32, 64, 64), 320)
    assert (conv2.description, pool2.description) == ("Conv2d 3x3", "PooledReLU 2x2 · BitDropout")
    names = [row[0].name for row in summarize("resnet18", 3, 224, 2).rows]
    assert names == ["conv1", "maxpool", "layer1", "layer2", "layer3", "layer4", "global_pool", "fc"]


def test_parallel_backbones_are_one_row():
    rows = summarize("combined_000", 3, 224, 14).rows
    assert [stage.shape[0] for stage in rows[0]] == [1024, 1664, 1920, 1280, 25_088, 25_088]
    assert [(row[0].name, row[0].shape) for row in rows[1:]] == [("concatenate", (56_064,)), ("output", (14,))]


def test_a_registered_network_is_listed_and_drawn(home, monkeypatch):
    monkeypatch.setitem(NETWORKS, "flat", lambda channels, size, outputs: Network({
        "flatten": nn.Flatten(), "output": nn.Linear(channels * size**2, outputs)}))
    monkeypatch.setattr(show_networks, "EXPERIMENTS", {"flat_8": Experiment(network="flat", image_size=8)})
    summary = show_networks.main([])["flat_8"]
    assert (summary.parameters, summary.flops) == (65 * 3, 2 * 64 * 3)
    assert show_networks.main(["--network", "flat", "--diagram", str(home / "flat.png")]).parameters == 65 * 3
    assert (home / "flat.png").stat().st_size > 1000


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_diagram_is_drawn(suffix, home, capsys):
    path = home / f"net.{suffix}"
    summary = show_networks.main(["--network", "lstm", "--diagram", str(path)])
    assert summary.parameters == 755_971 and "lstm on 1 x 64² pixels: 755,971 parameters" in capsys.readouterr().out
    if suffix == "png":
        with Image.open(path) as image:
            assert image.width > 300 and image.height > 300
    else:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_the_list_has_every_network_of_the_experiments(home, capsys, monkeypatch):
    some = {name: EXPERIMENTS[name] for name in ("cnn_b", "cnn_b_per_task", "lite0", "lite0_128", "vgg19_002")}
    monkeypatch.setattr(show_networks, "EXPERIMENTS", some)
    summaries, printed = show_networks.main([]), capsys.readouterr().out
    assert {name: summary.image_size for name, summary in summaries.items()} == {
        "cnn_b": 64, "lite0": 64, "lite0_128": 128, "vgg19_002": 256}
    assert summaries["cnn_b"].parameters == 102_263 and "tf_efficientnet_lite0" in printed
    assert "none: trained from scratch" in printed and "not found: vgg19" in printed


def test_the_source_of_weights_is_a_file_or_a_missing_name(home):
    assert "lite0" in Path(show_networks.weights_source("tf_efficientnet_lite0")).name
    assert show_networks.weights_source("vgg19_002") == "not found: vgg19"
    assert show_networks.weights_source("cnn_b").startswith("none")


def test_a_name_is_an_experiment_or_a_network():
    assert show_networks.pick_network("vgg19_000") == EXPERIMENTS["vgg19_000"]
    assert show_networks.pick_network("combined_pooled_000") == EXPERIMENTS["combined_000_pooled"]
    assert show_networks.pick_network("efficientnet_b1").image_size == 240


@pytest.mark.parametrize("arguments, message", [
    (["--network", "resnet81"], "no network 'resnet81'; ours are cnn_a"),
    (["--network", "cnn_f"], "near are cnn_"),
    (["--diagram", "net.png"], "--diagram net.png needs a --network"),
    (["--network", "cnn_e", "--diagram", "net.jpg"], "a name that ends in .png or .svg"),
])
def test_wrong_arguments_are_an_error(arguments, message, home):
    with pytest.raises(ValueError, match=re.escape(message)):
        show_networks.main(arguments)
