"""The list of networks and their diagrams: stages, arithmetic counted by hand, files that open."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

import show_networks
from experiment import EXPERIMENTS
from models.architectures import NETWORKS
from models.classifier import build_model, count_parameters
from models.summary import summarize


@pytest.mark.parametrize("network", [*NETWORKS, "cnn_002", "darknet19_002", "resnet18", "densenet121", "vgg11",
                                     "efficientnet_b0", "vit_tiny_patch16_224"])
def test_the_stages_end_in_the_logits_and_their_parameters_are_those_of_the_network(network):
    size = 224 if "vit" in network else 64
    anatomy = summarize(network, 1, size, 3)
    stages = [stage for row in anatomy.rows for stage in row]
    beside = 192 + 192 * 197 if "vit" in network else 0  # class token and position embeddings stand in no layer
    assert sum(stage.parameters for stage in stages) + beside == anatomy.parameters
    assert anatomy.parameters == count_parameters(build_model(network, 1, size, 3)) and stages[-1].shape == (3,)


@pytest.mark.parametrize("network, flops", [
    # two a weight and a place: (kernel² x in x out x places)
    ("cnn_d", 2 * (25 * 1 * 32 * 60**2 + 25 * 32 * 64 * 8**2 + 64 * 1024 + 1024 * 3)),
    ("mlp_a", 2 * (4096 * 256 + 256 * 256 + 256 * 3)),
    ("lstm", 2 * (64 * 512 * (64 + 128) + 64 * 512 * (128 + 128) + 8192 * 64 + 64 * 3)),
])
def test_flops_are_those_counted_by_hand(network, flops):
    assert summarize(network, 1, 64, 3).flops == flops


def test_a_stage_says_what_it_is_and_what_follows():
    conv1, conv2, pool2, *_ = [row[0] for row in summarize("cnn_e", 1, 64, 3).rows]
    assert (conv1.name, conv1.what, conv1.shape, conv1.parameters) == (
        "conv1", "convolution 3x3 · ReLU", (32, 64, 64), 320)
    assert (conv2.what, pool2.what) == ("convolution 3x3", "maximum of 2x2 · ReLU · dropout 0.2")
    names = [row[0].name for row in summarize("resnet18", 3, 224, 2).rows]
    assert names == ["conv1", "maxpool", "layer1", "layer2", "layer3", "layer4", "global_pool", "fc"]


def test_backbones_of_a_network_stand_side_by_side():
    rows = summarize("combined_000", 3, 224, 14).rows
    assert [stage.shape[0] for stage in rows[0]] == [1024, 1664, 1920, 1280, 25_088, 25_088]
    assert [(row[0].name, row[0].shape) for row in rows[1:]] == [("concatenate", (56_064,)), ("output", (14,))]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_diagram_is_drawn(suffix, home, capsys):
    path = home / f"net.{suffix}"
    anatomy = show_networks.main(["--network", "lstm", "--diagram", str(path)])
    assert anatomy.parameters == 755_971 and "lstm: 755,971 parameters" in capsys.readouterr().out
    if suffix == "png":
        with Image.open(path) as image:
            assert image.width > 300 and image.height > 300
    else:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_the_list_has_every_network_of_the_experiments(home, capsys, monkeypatch):
    some = {name: EXPERIMENTS[name] for name in ("cnn_b", "cnn_b_per_task", "lite0", "lite0_128", "vgg19_002")}
    monkeypatch.setattr(show_networks, "EXPERIMENTS", some)
    entries = show_networks.main(["--list"])
    assert [(entry.network, entry.experiment, entry.image_size) for entry in entries] == [
        ("cnn_b", "cnn_b", 64), ("tf_efficientnet_lite0", "lite0", 64), ("tf_efficientnet_lite0", "lite0_128", 128),
        ("vgg19_002", "vgg19_002", 256)]
    assert entries[0].parameters == 102_263 and entries[0].weights.startswith("none")
    assert "lite0" in Path(entries[1].weights).name
    assert entries[3].weights == "not found: vgg19" and "not found: vgg19" in capsys.readouterr().out


def test_a_name_means_an_experiment_or_a_network_or_one_of_timm():
    assert show_networks.pick_network("vgg19_000") == EXPERIMENTS["vgg19_000"]
    assert show_networks.pick_network("combined_pooled_000") == EXPERIMENTS["combined_000_pooled"]
    assert show_networks.pick_network("efficientnet_b1").image_size == 240


@pytest.mark.parametrize("arguments, message", [
    (["--network", "resnet81"], "no network 'resnet81'; ours are cnn_a"),
    (["--network", "cnn_f"], "near are cnn_"),
    (["--diagram", "net.png"], "--diagram net.png needs a --network"),
    (["--network", "cnn_e", "--diagram", "net.jpg"], "a name that ends in .png or .svg"),
])
def test_a_wrong_wish_is_an_error(arguments, message, home):
    with pytest.raises(ValueError, match=re.escape(message)):
        show_networks.main(arguments)
