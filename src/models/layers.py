"""Building blocks of the networks: pooling before ReLU, one matrix product, cheap dropout, TensorFlow's padding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PooledReLU(nn.MaxPool2d):
    """Max pooling, then ReLU: equal to ReLU, then max pooling, with kernel² times fewer values to rectify.

    Equal because max and ReLU both keep the order of values: max(relu(x)) = relu(max(x)).
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class UnfoldConv2d(nn.Conv2d):
    """A convolution of stride 1 as one matrix product on a CPU; parameters, result and state_dict are nn.Conv2d's.

    For many channels on a few pixels: the CPU's own kernels reach a third of the speed of a matrix product when 512
    channels of 6x6 pixels become 2x2. Where the map is larger the copying costs more than it gains.
    Equal to nn.Conv2d up to rounding.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int | tuple[int, int], *,
                 padding: int | tuple[int, int] = 0):
        super().__init__(channels_in, channels_out, kernel_size, padding=padding)  # no stride, groups or dilation

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)  # cuDNN is fast here
        height, width = self.kernel_size
        pad_y, pad_x = self.padding
        # channels last, so that every patch's pixels are runs of whole channels to copy
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, pad_x, pad_x, pad_y, pad_y))
        rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
        # slices, since the gradient of Tensor.unfold goes element by element
        patches = torch.stack([x[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)], dim=1)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)                 # (C out, height * width * C)
        y = F.linear(patches.flatten(2), weight, self.bias)                 # (B, rows * columns, C out)
        return y.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)          # (B, C out, rows, columns)


class BitDropout(nn.Dropout):
    """nn.Dropout whose mask costs a fifth on a CPU: 16 random bits decide over a value, where torch draws a double.

    So values are zeroed with the nearest multiple of 1/65536 to p, and the others scaled to match. On a CPU torch's own
    takes 5 to 10 % of the step of a network with wide maps.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu" or not 0 < self.p < 1:
            return super().forward(x)
        zeroed = round(self.p * 2**16)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # from all 64-bit numbers
        bits = words.view(torch.int16)[: x.numel()]
        kept = (bits >= zeroed - 2**15).to(x.dtype).mul_(2**16 / (2**16 - zeroed))
        return x * kept.as_strided(x.shape, x.stride())  # the layout of x, channels last or not


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "same" does it: H, W -> ceil(H / stride), ceil(W / stride).

    With stride 2 the padding can be one pixel more at the bottom and the right than at the top and the left, which
    nn.Conv2d cannot express.
    Source: https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    """

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = _same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
        left, right = _same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
        return super().forward(F.pad(x, (left, right, top, bottom)))


def _same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    outputs = -(-length // stride)
    total = max((outputs - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


class ImageRows(nn.Module):
    """Images (B, C, H, W) as sequences of their rows (B, H, W * C)."""

    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 3, 1).flatten(2)


class SequenceLSTM(nn.LSTM):
    """nn.LSTM that returns the outputs of all steps (B, T, hidden) without the last state."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]
