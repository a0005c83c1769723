"""Number formats of training steps: what computes in which, and the trial that chooses one and leaves no trace."""

import copy
import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.files import read_json
from common.hardware import device_name
from models.classifier import build_model
from training import precision
from training.precision import DepthwiseInFp32, Step, autocast, choose_precision, time_formats

STEP = Step("cnn_b", 1, 32, 4, 3)
FP32, BF16 = torch.float32, torch.bfloat16


@pytest.fixture
def model() -> nn.Module:
    """With batch normalisation and dropout: both leave traces of a training step."""
    torch.manual_seed(0)
    return build_model(STEP.network, STEP.channels, STEP.image_size, STEP.outputs)


@pytest.fixture
def quick(home, monkeypatch):
    """A machine with bf16, and the shortest trial."""
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    monkeypatch.setattr(precision, "SECONDS", 0)
    return home / "data" / "precision"


def depthwise_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 4, 1))


def output_dtypes(network: nn.Module, name: str) -> list[torch.dtype]:
    seen = []
    handles = [stage.register_forward_hook(lambda _, __, output: seen.append(output.dtype)) for stage in network]
    with autocast("cpu", name):
        network(torch.rand(2, 3, 8, 8))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name, expected", [
    ("fp32", [FP32, FP32, FP32]), ("bf16", [BF16, BF16, BF16]), ("mixed", [BF16, FP32, BF16])])
def test_each_convolution_computes_in_the_format_it_should(name, expected):
    network = depthwise_network()
    assert output_dtypes(network, name) == expected
    assert output_dtypes(network, "fp32") == [FP32] * 3  # nothing of it is left afterwards


def test_a_depthwise_convolution_in_mixed_is_torchs_own_in_fp32_with_its_gradients():
    torch.manual_seed(0)
    convolution, images = nn.Conv2d(8, 8, 3, groups=8), torch.randn(2, 8, 7, 7)
    results = []
    for name in ("mixed", "fp32"):
        images.grad = None
        images.requires_grad_()
        convolution.zero_grad()
        with autocast("cpu", name):
            output = convolution(images)
        output.square().sum().backward()
        results.append([output.detach(), images.grad, convolution.weight.grad, convolution.bias.grad])
    for mixed, fp32 in zip(*results, strict=True):
        assert torch.equal(mixed, fp32)


def test_groups_are_seen_however_the_convolution_is_called():
    images, kernels = torch.rand(1, 4, 5, 5).bfloat16(), torch.rand(4, 1, 3, 3)
    with torch.autocast("cpu", BF16), DepthwiseInFp32():
        assert F.conv2d(images, kernels, None, 1, 0, 1, 4).dtype == FP32
        assert F.conv2d(images, weight=kernels, groups=4).dtype == FP32
        assert F.conv2d(images, torch.rand(4, 4, 3, 3)).dtype == BF16


def test_the_gradients_of_a_network_in_mixed_point_where_those_in_fp32_do():
    network, images, gradients = depthwise_network(), torch.rand(8, 3, 9, 9), []
    for name in ("mixed", "fp32"):
        network.zero_grad()
        with autocast("cpu", name):
            loss = network(images).float().square().mean()
        loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    assert all(gradient.dtype == FP32 for gradient in gradients)
    assert F.cosine_similarity(*gradients, dim=0) > 0.9999
    assert not torch.equal(*gradients)  # or the others would not have computed in bf16


def test_a_copy_of_a_network_that_trained_in_mixed_is_the_network():
    network, images = depthwise_network(), torch.rand(2, 3, 8, 8)
    with autocast("cpu", "mixed"):
        twin = copy.deepcopy(network)
        network(images)
    assert torch.equal(twin(images), network(images))


def test_no_trial_where_the_hardware_has_no_bf16(home, model, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    assert choose_precision(model, STEP, "cpu", threads=1) == "fp32"
    assert list(home.iterdir()) == []


def test_a_trial_leaves_model_random_state_and_threads_as_they_were(quick, model):
    before, random, threads = copy.deepcopy(model.state_dict()), torch.get_rng_state(), torch.get_num_threads()
    model.eval()
    assert choose_precision(model, STEP, "cpu", threads=2) in ("fp32", "bf16")
    assert torch.get_num_threads() == threads and not model.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_only_networks_with_depthwise_convolutions_are_tried_in_mixed(quick, model):
    assert set(time_formats(model, STEP, "cpu", threads=1)) == {"fp32", "bf16"}

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = depthwise_network()

        def forward(self, images):
            return self.network(images.float()).mean(dim=(2, 3))

    seconds = time_formats(Pooled(), Step("any", 3, 8, 1, 4), "cpu", threads=1)
    assert set(seconds) == {"fp32", "bf16", "mixed"} and all(value > 0 for value in seconds.values())


@pytest.mark.parametrize("seconds, expected", [
    ({"fp32": 1.0, "bf16": 0.95}, "fp32"),  # noise
    ({"fp32": 1.0, "bf16": 0.5}, "bf16"),
    ({"fp32": 1.0, "bf16": 2.0, "mixed": 0.7}, "mixed"),
    ({"fp32": 1.0, "bf16": 2.0, "mixed": 0.8}, "fp32"),  # as lite0 was measured: now above a threshold there, now below
    ({"fp32": 1.35, "bf16": 1.0}, "bf16"),
])
def test_another_format_must_be_a_third_faster(quick, model, monkeypatch, seconds, expected):
    monkeypatch.setattr(precision, "time_formats", lambda *arguments: seconds)
    assert choose_precision(model, STEP, "cpu", threads=1) == expected


def test_a_choice_is_kept_for_the_same_step_on_the_same_machine(quick, model, monkeypatch):
    monkeypatch.setattr(precision, "time_formats", lambda *arguments: {"fp32": 1.0, "bf16": 0.5})
    assert choose_precision(model, STEP, "cpu", threads=1) == "bf16"
    monkeypatch.setattr(precision, "time_formats", lambda *arguments: {"fp32": 1.0, "bf16": 1.0})
    assert choose_precision(model, STEP, "cpu", threads=1) == "bf16"
    kept = read_json(next(quick.iterdir()))
    assert kept["seconds_a_step"] == {"fp32": 1.0, "bf16": 0.5} and kept["device"] == device_name("cpu")
    assert choose_precision(model, STEP, "cpu", threads=2) == "fp32"
    assert choose_precision(model, Step("cnn_b", 1, 32, 8, 3), "cpu", threads=1) == "fp32"
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert choose_precision(model, STEP, "cpu", threads=1) == "fp32"


def test_of_two_processes_the_first_chooses_for_both(quick, model, monkeypatch):
    def slow_trial(*arguments) -> dict:
        monkeypatch.setattr(precision, "time_formats", lambda *arguments: {"fp32": 1.0, "bf16": 0.5})
        assert choose_precision(model, STEP, "cpu", threads=1) == "bf16"  # the other process, meanwhile
        return {"fp32": 1.0, "bf16": 1.0}

    monkeypatch.setattr(precision, "time_formats", slow_trial)
    assert choose_precision(model, STEP, "cpu", threads=1) == "bf16"
    assert len(list(quick.iterdir())) == 1


def test_a_choice_is_kept_on_a_file_system_without_links(quick, model, monkeypatch):
    def refuse(*arguments) -> None:
        raise OSError("Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(precision, "time_formats", lambda *arguments: {"fp32": 1.0, "bf16": 0.5})
    assert choose_precision(model, STEP, "cpu", threads=1) == "bf16"
    assert [path.suffix for path in quick.iterdir()] == [".json"]


def test_a_name_of_the_hub_makes_a_file_name(quick, model, monkeypatch):
    monkeypatch.setattr(precision, "time_formats", lambda *arguments: {"fp32": 1.0, "bf16": 0.5})
    choose_precision(model, Step("hf-hub:timm/resnet18.a1", 1, 32, 4, 3), "cpu", threads=1)
    assert next(quick.iterdir()).name.startswith("hf_hub_timm_resnet18_a1-")
