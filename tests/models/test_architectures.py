"""The reference's eight networks against its counts, shapes and layers; their blocks against hand computation."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architectures import NETWORKS, Network
from models.layers import ImageRows, PooledReLU, SameConv2d, SequenceLSTM, UnfoldConv2d

TORCH_BIAS = 1024  # torch's LSTM has a second bias vector in each of its two layers: 2 x 4 gates x 128


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def build(name: str, channels: int = 1, image_size: int = 64, outputs: int = 3) -> Network:
    torch.manual_seed(0)
    return NETWORKS[name](channels, image_size, outputs)


def record_outputs(network: Network, images: Tensor) -> dict[str, Tensor]:
    """What every stage hands on, by its name."""
    outputs = {}
    hooks = [stage.register_forward_hook(lambda _, __, out, name=name: outputs.update({name: out.detach()}))
             for name, stage in network.named_children()]
    network(images)
    for hook in hooks:
        hook.remove()
    return outputs


# ---- counts: the reference's tables

COUNTS = {  # 1 channel and 3 outputs, 3 channels and 3 outputs; 1 channel and 2 outputs in Keras
    "cnn_a": (26_217_987, 26_222_595, 26_217_730),
    "cnn_b": (102_263, 103_513, 102_162),
    "cnn_c": (16_245_328, 16_246_228, 16_245_077),
    "cnn_d": (121_731, 123_331, 120_706),
    "cnn_e": (9_007_843, 9_008_419, 9_006_818),
    "lstm": (755_971, 821_507, 754_882 + TORCH_BIAS),
    "mlp_a": (1_115_395, 3_212_547, None),  # Keras' have no flatten, so they count other layers
    "mlp_b": (1_075_035, 3_172_187, None),
    "pixels": (12_291, 36_867, None),  # 4,096 and 12,288 weights for each of three labels, and three biases
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_parameters_are_as_many_as_the_references(name):
    def count(channels: int, outputs: int) -> int:
        with torch.device("meta"):  # shapes without numbers
            return sum(parameter.numel() for parameter in build(name, channels, 64, outputs).parameters())

    grey, colour, keras = COUNTS[name]
    assert (count(1, 3), count(3, 3)) == (grey, colour)
    assert keras is None or count(1, 2) == keras


def test_keras_counts_the_moving_statistics_of_cnn_b_too():
    statistics = [value for name, value in build("cnn_b").named_buffers() if "running" in name]
    assert sum(value.numel() for value in statistics) == 240


# ---- shapes: the reference's tables

SHAPES = {  # at 64 pixels
    "cnn_a": {"conv": (256, 62, 62), "pool": (256, 20, 20), "flatten": (102_400,), "hidden": (256,)},
    "cnn_b": {"conv1": (25, 64, 64), "pool1": (25, 32, 32), "conv2": (50, 16, 16), "pool2": (50, 8, 8),
              "norm2": (50, 8, 8), "conv3": (70, 4, 4), "pool3": (70, 2, 2), "norm3": (70, 2, 2), "flatten": (280,),
              "hidden1": (100,), "hidden2": (100,)},
    "cnn_c": {"conv1": (50, 64, 64), "conv2": (75, 64, 64), "pool2": (75, 32, 32), "conv3": (125, 32, 32),
              "pool3": (125, 16, 16), "flatten": (32_000,), "hidden1": (500,), "hidden2": (250,)},
    "cnn_d": {"conv1": (32, 60, 60), "pool1": (32, 12, 12), "conv2": (64, 8, 8), "pool2": (64, 1, 1), "flatten": (64,),
              "hidden": (1024,)},
    "cnn_e": {"conv1": (32, 64, 64), "conv2": (32, 62, 62), "pool2": (32, 31, 31), "conv3": (64, 31, 31),
              "conv4": (64, 29, 29), "pool4": (64, 14, 14), "conv5": (128, 14, 14), "conv6": (128, 12, 12),
              "pool6": (128, 6, 6), "conv7": (512, 6, 6), "conv8": (512, 2, 2), "pool8": (512, 1, 1), "flatten": (512,),
              "hidden": (1024,)},
    "lstm": {"rows": (64, 64), "lstm": (64, 128), "flatten": (8192,), "hidden": (64,)},
    "mlp_a": {"flatten": (4096,), "hidden1": (256,), "hidden2": (256,)},
    "mlp_b": {"flatten": (4096,), "linear": (256,), "hidden": (100,)},
    "pixels": {"flatten": (4096,)},
}
DROPOUT = {"cnn_b": [0.25], "cnn_c": [0.25, 0.25, 0.4, 0.3], "cnn_d": [0.8], "cnn_e": [0.2] * 5, "mlp_b": [0.5]}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_stage_hands_on_the_references_shape(name):
    outputs = record_outputs(build(name).eval(), noise(2, 1, 64, 64))
    assert {stage: tuple(outputs[stage].shape[1:]) for stage in SHAPES[name]} == SHAPES[name]
    assert outputs["output"].shape == (2, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_as_much_is_dropped_as_in_the_reference(name):
    assert [stage.p for stage in build(name) if isinstance(stage, nn.Dropout)] == DROPOUT.get(name, [])


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_raw(name):
    network = build(name).eval()
    nn.init.constant_(network.output.bias, -3.0)
    low = network(noise(2, 1, 64, 64)).detach()
    nn.init.constant_(network.output.bias, 4.0)
    torch.testing.assert_close(network(noise(2, 1, 64, 64)).detach(), low + 7, atol=1e-5, rtol=1e-5)


# ---- sizes of image

LEAST = {
    "cnn_a": 5,   # 5 - 2 = 3, pooled to 1
    "cnn_b": 17,  # 17, 9, 5, 3, 2, 1
    "cnn_c": 4,   # 4, 2, 1
    "cnn_d": 49,  # 49 - 4 = 45, 9, 9 - 4 = 5, 1
    "cnn_e": 54,  # 54 - 2 = 52, 26, 26 - 2 = 24, 12, 12 - 2 = 10, 5, 5 - 4 = 1
    "lstm": 1,
    "mlp_a": 1,
    "mlp_b": 1,
    "pixels": 1,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_images_below_the_least_size_are_an_error(name):
    least = LEAST[name]
    with pytest.raises(ValueError, match=rf"^{name} needs images of at least {least} pixels, not {least - 1};"):
        build(name, 1, least - 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_size_from_the_least_up_gives_logits(name):
    for image_size in range(LEAST[name], LEAST[name] + 27) if "cnn" in name else (1, 2, 33):
        with torch.device("meta"):
            network = build(name, 3, image_size).eval()
            assert network(torch.empty(2, 3, image_size, image_size)).shape == (2, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_of_the_least_size_has_finite_logits(name):
    size = LEAST[name]
    assert build(name, 1, size).eval()(noise(2, 1, size, size)).isfinite().all()


def test_cnn_e_has_equal_parameters_at_any_image_size():
    with torch.device("meta"):
        small, large = build("cnn_e", 1, 54), build("cnn_e", 1, 200)
    assert {name: value.shape for name, value in small.state_dict().items()} == \
        {name: value.shape for name, value in large.state_dict().items()}


# ---- the same function as the reference's layers, written down without our building blocks


def tensorflow_pad(x: Tensor, kernel: int, stride: int, value: float) -> Tensor:
    """"same", by the rule as TensorFlow states it."""
    def around(length: int) -> tuple[int, int]:
        total = max(kernel - (stride if length % stride == 0 else length % stride), 0)
        return total // 2, total - total // 2

    return F.pad(x, (*around(x.shape[3]), *around(x.shape[2])), value=value)


def conv(stride: int = 1, same: bool = False):
    def layer(x, stages):
        stage = next(stages)
        x = tensorflow_pad(x, stage.weight.shape[2], stride, 0.0) if same else x
        return F.conv2d(x, stage.weight, stage.bias, stride).relu()
    return layer


def pool(size: int, same: bool = False):
    return lambda x, stages: F.max_pool2d(tensorflow_pad(x, size, size, -math.inf) if same else x, size)


def norm(x, stages):
    stage = next(stages)
    shape = (-1, 1, 1) if x.ndim == 4 else (-1,)
    mean, var, gamma, beta = (value.reshape(shape) for value in
                              (stage.running_mean, stage.running_var, stage.weight, stage.bias))
    return (x - mean) / (var + 0.001).sqrt() * gamma + beta


def flatten(x, stages):
    return x.reshape(len(x), -1)


def dense(x, stages):
    stage = next(stages)
    return x @ stage.weight.T + stage.bias


def relu(x, stages):
    return x.clamp(min=0)


def rows_as_steps(x, stages):
    return x.permute(0, 2, 3, 1).reshape(len(x), x.shape[2], -1)  # Keras: (H, W, C) to H steps of W * C


def two_lstms(x, stages):
    stage = next(stages)
    for layer in range(2):
        hidden = cell = torch.zeros(len(x), 128)
        steps = []
        for step in range(x.shape[1]):
            gates = (x[:, step] @ getattr(stage, f"weight_ih_l{layer}").T + getattr(stage, f"bias_ih_l{layer}")
                     + hidden @ getattr(stage, f"weight_hh_l{layer}").T + getattr(stage, f"bias_hh_l{layer}"))
            enter, keep, value, leave = gates.split(128, dim=1)
            cell = keep.sigmoid() * cell + enter.sigmoid() * value.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            steps.append(hidden)
        x = torch.stack(steps, dim=1)
    return x


REFERENCE = {
    "cnn_a": [conv(), pool(3), flatten, dense, relu, dense],
    "cnn_b": [conv(same=True), pool(2, same=True), conv(2, same=True), pool(2, same=True), norm, conv(2, same=True),
              pool(2), norm, flatten, dense, relu, dense, relu, dense],
    "cnn_c": [conv(same=True), conv(same=True), pool(2), conv(same=True), pool(2), flatten, dense, relu, dense, relu,
              dense],
    "cnn_d": [conv(), pool(5), conv(), pool(5), flatten, dense, relu, dense],
    "cnn_e": [conv(same=True), conv(), pool(2), conv(same=True), conv(), pool(2), conv(same=True), conv(), pool(2),
              conv(same=True), conv(), pool(4, same=True), flatten, dense, relu, dense],
    "lstm": [rows_as_steps, two_lstms, flatten, dense, relu, dense],
    "mlp_a": [flatten, dense, relu, dense, relu, dense],
    "mlp_b": [flatten, dense, dense, relu, norm, dense],
    "pixels": [flatten, dense],
}


def as_after_training(network: Network) -> Network:
    """With biases and statistics that are not zero and one, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.ndim == 1:
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("name, image_size", [*((name, 64) for name in NETWORKS), ("cnn_b", 57), ("cnn_b", 33)])
def test_a_network_computes_the_references_layers(name, image_size):
    network, images = as_after_training(build(name, 3, image_size)), noise(2, 3, image_size, image_size)
    stages = (stage for stage in network if list(stage.parameters()))
    expected = images
    for layer in REFERENCE[name]:
        expected = layer(expected, stages)
    assert next(stages, None) is None
    torch.testing.assert_close(network(images), expected, atol=1e-4, rtol=1e-4)


# ---- how they start and learn


@pytest.mark.parametrize("name", NETWORKS)
def test_initialisation_is_he_before_relu_and_glorot_elsewhere(name):
    stages = [(stage_name, stage) for stage_name, stage in build(name).named_children()
              if isinstance(stage, (nn.Conv2d, nn.Linear))]
    for stage_name, stage in stages:
        weight, (fan_out, fan_in) = stage.weight.detach(), stage.weight.flatten(1).shape
        assert not stage.bias.any()
        if stage_name in ("output", "linear"):  # no activation follows: uniform, variance 2 / (fan_in + fan_out)
            limit = math.sqrt(6 / (fan_in + fan_out))
            assert weight.abs().max() <= limit and weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.15)
        else:                                   # normal, variance 2 / fan_in
            assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.15)
            assert weight.abs().max() > 2.2 * weight.std()


@pytest.mark.parametrize("name", ["cnn_a", "cnn_c", "cnn_e"])
def test_the_signal_neither_fades_nor_explodes_on_its_way(name):
    """Glorot's weights halve the mean square at every ReLU: a hundredth and less is left after nine layers."""
    outputs = record_outputs(build(name).eval(), noise(4, 1, 64, 64))
    squares = {stage: output.square().mean().item() for stage, output in outputs.items()
               if stage.startswith(("conv", "hidden"))}
    assert all(0.5 < square < 40 for square in squares.values()), squares


@pytest.mark.parametrize("name, values", [("cnn_b", "norm2"), ("cnn_b", "norm3"), ("mlp_b", "norm")])
def test_batch_normalisation_moves_as_keras_does(name, values):
    network, seen = build(name), {}
    stage = network.get_submodule(values)
    stage.register_forward_hook(lambda _, inputs, output: seen.update(before=inputs[0], after=output))
    network.train()(noise(8, 1, 64, 64))
    before, after = (seen[key].detach().transpose(0, 1).flatten(1) for key in ("before", "after"))  # a row a channel
    mean, variance = before.mean(dim=1), before.var(dim=1, unbiased=False)
    normal = (before - mean[:, None]) / (variance[:, None] + 1e-3).sqrt()
    torch.testing.assert_close(after, normal, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(stage.running_mean, 0.99 * 0 + 0.01 * mean)
    torch.testing.assert_close(stage.running_var, 0.99 * 1 + 0.01 * before.var(dim=1))


# ---- building blocks: pooling before ReLU


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel, ceil_mode", [(2, False), (2, True), (3, False), (5, False)])
def test_pooling_before_relu_equals_relu_before_pooling(kernel, ceil_mode, dtype):
    x = noise(2, 3, 13, 16).to(dtype) - 1.8  # so that some windows hold no positive value
    pooled = PooledReLU(kernel, ceil_mode=ceil_mode)(x)
    expected = F.max_pool2d(x.relu(), kernel, ceil_mode=ceil_mode)
    assert torch.equal(pooled, expected) and (pooled == 0).any() and (pooled > 0).any()


def test_pooling_before_relu_has_the_same_gradient():
    gradients = []
    for function in (PooledReLU(2), lambda x: F.max_pool2d(x.relu(), 2)):
        x = (noise(2, 3, 12, 12) - 0.8).requires_grad_()
        function(x).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients) and gradients[0].any()


# ---- convolution as one matrix product

UNFOLDED = [  # channels in, out, kernel, padding, height, width
    (512, 512, 5, 0, 6, 6),  # CNN e's
    (3, 4, (3, 5), (1, 2), 7, 9),
    (2, 5, (5, 1), (0, 2), 8, 5),
    (1, 1, 1, 0, 1, 1),
]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("channels_in, channels_out, kernel, padding, height, width", UNFOLDED)
def test_unfolded_convolution_equals_torchs_with_its_gradients(
        channels_in, channels_out, kernel, padding, height, width, dtype, tolerance, memory_format):
    torch.manual_seed(0)
    usual = nn.Conv2d(channels_in, channels_out, kernel, padding=padding, dtype=dtype)
    unfolded = UnfoldConv2d(channels_in, channels_out, kernel, padding=padding).to(dtype)
    unfolded.load_state_dict(usual.state_dict())
    results = []
    for stage in (unfolded, usual):
        x = noise(2, channels_in, height, width, dtype=dtype).to(memory_format=memory_format).requires_grad_()
        output = stage(x)
        (output * noise(*output.shape, dtype=dtype)).sum().backward()
        results.append([output, x.grad, stage.weight.grad, stage.bias.grad])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_unfolded_convolution_computes_in_bfloat16_where_torchs_does():
    torch.manual_seed(0)
    usual, unfolded = nn.Conv2d(8, 8, 3), UnfoldConv2d(8, 8, 3)
    unfolded.load_state_dict(usual.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = unfolded(noise(2, 8, 6, 6)), usual(noise(2, 8, 6, 6))
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)


def test_unfolded_convolution_takes_no_stride():
    with pytest.raises(TypeError):
        UnfoldConv2d(2, 3, 3, stride=2)


# ---- TensorFlow's padding


@pytest.mark.parametrize("row, kernel, stride, expected", [
    ([1, 2, 3, 4], [1, 10, 100], 1, [210, 321, 432, 43]),             # one 0 on either side
    ([1, 2, 3, 4], [1, 10, 100], 2, [321, 43]),                       # the odd one is at the end: 1 2 3, 3 4 0
    ([1, 2, 3, 4], [1, 10, 100, 1000, 10_000], 2, [43_210, 432]),     # one before and two after: 0 1 2 3 4, 2 3 4 0 0
    ([1, 2, 3, 4, 5], [1, 10, 100], 2, [210, 432, 54]),               # an odd length: one on either side
    ([1, 2, 3, 4, 5], [1, 10], 2, [21, 43, 5]),
    ([1, 2, 3, 4, 5, 6], [1], 3, [1, 4]),                             # nothing to pad; the rest is skipped
])
def test_same_padding_is_tensorflows(row, kernel, stride, expected):
    row, kernel, expected = (torch.tensor(values, dtype=torch.float32) for values in (row, kernel, expected))
    across = SameConv2d(1, 1, (1, len(kernel)), stride=(1, stride), bias=False)
    across.weight.data = kernel.reshape(1, 1, 1, -1)
    assert across(row.reshape(1, 1, 1, -1)).flatten().tolist() == expected.tolist()
    down = SameConv2d(1, 1, (len(kernel), 1), stride=(stride, 1), bias=False)
    down.weight.data = kernel.reshape(1, 1, -1, 1)
    assert down(row.reshape(1, 1, -1, 1)).flatten().tolist() == expected.tolist()


def test_same_padding_of_an_image_by_hand():
    """A 4x4 image, 3x3 ones, stride 2: windows start at rows and columns 0 and 2, the last end outside."""
    stage = SameConv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(stage.weight)
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert stage(image).detach()[0, 0].tolist() == [[45, 39], [66, 50]]
    symmetric = F.conv2d(image, stage.weight, stride=2, padding=1)
    assert symmetric[0, 0].tolist() == [[10, 24], [51, 90]]  # what torch's own padding would give


# ---- rows as time


@pytest.mark.parametrize("channels", [1, 3])
def test_image_rows_become_steps_with_channels_last(channels):
    image = np.arange(5 * 4 * channels).reshape(5, 4, channels)
    steps = ImageRows()(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert steps[0].tolist() == [row.reshape(-1).tolist() for row in image]


@torch.no_grad()
def test_the_lstm_reads_from_the_top_row_to_the_bottom_row():
    network, images = build("lstm").eval(), noise(1, 1, 64, 64)
    other_row, other_column = images.clone(), images.clone()
    other_row[..., 40, :] += 1
    other_column[..., :, 40] += 1
    steps, after_row, after_column = (record_outputs(network, each)["lstm"][0] for each in
                                      (images, other_row, other_column))
    assert torch.equal(after_row[:40], steps[:40])  # what comes later cannot be known before
    assert (after_row[40:45] != steps[40:45]).any(dim=1).all()
    assert (after_column != steps).any(dim=1).all()


@torch.no_grad()
def test_the_lstm_minds_the_order_of_the_rows():
    network, images = build("lstm").eval(), noise(2, 1, 64, 64)
    assert (network(images.flip(2)) - network(images)).abs().min() > 1e-3


@torch.no_grad()
def test_lstm_gates_start_at_keras_values():
    """With nothing to read, a cell that holds 1 keeps sigmoid(1) of it: Keras' unit_forget_bias, once and not twice."""
    stage = build("lstm").lstm
    for name, parameter in stage.named_parameters():
        if name.startswith("weight"):
            parameter.zero_()
    zeros, ones = torch.zeros(2, 1, 128), torch.ones(2, 1, 128)
    _, (hidden, cell) = nn.LSTM.forward(stage, torch.zeros(1, 1, 64), (zeros, ones))
    torch.testing.assert_close(cell, torch.full_like(cell, 1 / (1 + math.exp(-1))))
    torch.testing.assert_close(hidden, 0.5 * cell.tanh())


def test_the_lstms_recurrent_weights_are_orthogonal():
    weight = build("lstm").lstm.weight_hh_l1.detach()  # (4 gates x 128, 128)
    torch.testing.assert_close(weight.T @ weight, torch.eye(128), atol=1e-5, rtol=0)


def test_the_sequence_layer_hands_on_every_step_and_nothing_else():
    stage = SequenceLSTM(3, 4, num_layers=2, batch_first=True)
    steps = stage(noise(2, 5, 3))
    assert steps.shape == (2, 5, 4)
    torch.testing.assert_close(steps, nn.LSTM.forward(stage, noise(2, 5, 3))[0])
