"""Eight networks of reference system 003: images (B, C, S, S) to raw logits (B, outputs).

Layers and sizes are the reference's. Three things differ: weights before a ReLU are initialised as in He et al. 2015,
because with Glorot's (Keras' default) the nine layers of `cnn_e` were untrained after three epochs; pooling precedes
ReLU, which gives the same numbers faster; and the MLPs flatten the image first, because without it they give logits per
row.
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from models.layers import BitDropout, ImageRows, PooledReLU, SameConv2d, SequenceLSTM, UnfoldConv2d

KERAS_BATCH_NORM = {"momentum": 0.01, "eps": 1e-3}  # torch's momentum is 1 - Keras' 0.99


class Network(nn.Sequential):
    """Named layers, applied in order, with the initial weights of `_initialise`."""

    def __init__(self, stages: dict[str, nn.Module]):
        super().__init__(OrderedDict(stages))
        _initialise(self)


def cnn_a(channels: int, image_size: int, outputs: int) -> Network:
    """One wide convolution and a large hidden layer: 26 million parameters, 98 % of them in `hidden`."""
    require_size("cnn_a", image_size, least=5)
    side = (image_size - 2) // 3
    return Network({                                            # 64 pixels:
        "conv": nn.Conv2d(channels, 256, 3),                    # 256 x 62 x 62
        "pool": PooledReLU(3),                                  # 256 x 20 x 20
        "flatten": nn.Flatten(),                                # 102 400
        "hidden": nn.Linear(256 * side**2, 256),                # 256
        "relu": nn.ReLU(),
        "output": nn.Linear(256, outputs),
    })


def cnn_b(channels: int, image_size: int, outputs: int) -> Network:
    """Three small convolutions, two of stride 2, with batch normalisation: the smallest of the eight networks."""
    require_size("cnn_b", image_size, least=17)
    side = -(-image_size // 16) // 2                            # four halvings that round up, one that rounds down
    return Network({                                            # 64 pixels:
        "conv1": SameConv2d(channels, 25, 5),                   # 25 x 64 x 64
        "pool1": PooledReLU(2, ceil_mode=True),                 # 25 x 32 x 32
        "conv2": SameConv2d(25, 50, 5, stride=2),               # 50 x 16 x 16
        "pool2": PooledReLU(2, ceil_mode=True),                 # 50 x 8 x 8
        "norm2": nn.BatchNorm2d(50, **KERAS_BATCH_NORM),
        "conv3": SameConv2d(50, 70, 3, stride=2),               # 70 x 4 x 4
        "pool3": PooledReLU(2),                                 # 70 x 2 x 2
        "norm3": nn.BatchNorm2d(70, **KERAS_BATCH_NORM),
        "flatten": nn.Flatten(),                                # 280
        "hidden1": nn.Linear(70 * side**2, 100),                # 100
        "relu1": nn.ReLU(),
        "hidden2": nn.Linear(100, 100),                         # 100
        "relu2": nn.ReLU(),
        "dropout": BitDropout(0.25),
        "output": nn.Linear(100, outputs),
    })


def cnn_c(channels: int, image_size: int, outputs: int) -> Network:
    """Three 3x3 convolutions and two hidden layers: 16 million parameters."""
    require_size("cnn_c", image_size, least=4)
    side = image_size // 4
    return Network({                                            # 64 pixels:
        "conv1": nn.Conv2d(channels, 50, 3, padding=1),         # 50 x 64 x 64
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(50, 75, 3, padding=1),               # 75 x 64 x 64
        "pool2": PooledReLU(2),                                 # 75 x 32 x 32
        "dropout2": BitDropout(0.25),
        "conv3": nn.Conv2d(75, 125, 3, padding=1),              # 125 x 32 x 32
        "pool3": PooledReLU(2),                                 # 125 x 16 x 16
        "dropout3": BitDropout(0.25),
        "flatten": nn.Flatten(),                                # 32 000
        "hidden1": nn.Linear(125 * side**2, 500),               # 500
        "relu4": nn.ReLU(),
        "dropout4": BitDropout(0.4),
        "hidden2": nn.Linear(500, 250),                         # 250
        "relu5": nn.ReLU(),
        "dropout5": BitDropout(0.3),
        "output": nn.Linear(250, outputs),
    })


def cnn_d(channels: int, image_size: int, outputs: int) -> Network:
    """Two 5x5 convolutions, each with 5x5 pooling, and a hidden layer with dropout 0.8."""
    require_size("cnn_d", image_size, least=49)
    side = ((image_size - 4) // 5 - 4) // 5
    return Network({                                            # 64 pixels:
        "conv1": nn.Conv2d(channels, 32, 5),                    # 32 x 60 x 60
        "pool1": PooledReLU(5),                                 # 32 x 12 x 12
        "conv2": nn.Conv2d(32, 64, 5),                          # 64 x 8 x 8
        "pool2": PooledReLU(5),                                 # 64 x 1 x 1: the last three rows and columns are lost
        "flatten": nn.Flatten(),                                # 64
        "hidden": nn.Linear(64 * side**2, 1024),                # 1024
        "relu": nn.ReLU(),
        "dropout": BitDropout(0.8),
        "output": nn.Linear(1024, outputs),
    })


def cnn_e(channels: int, image_size: int, outputs: int) -> Network:
    """Eight convolutions and global max pooling: the reference's best network. Its parameters fit any image size."""
    require_size("cnn_e", image_size, least=54)
    return Network({                                            # 64 pixels:
        "conv1": nn.Conv2d(channels, 32, 3, padding=1),         # 32 x 64 x 64
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(32, 32, 3),                          # 32 x 62 x 62
        "pool2": PooledReLU(2),                                 # 32 x 31 x 31
        "dropout2": BitDropout(0.2),
        "conv3": nn.Conv2d(32, 64, 3, padding=1),               # 64 x 31 x 31
        "relu3": nn.ReLU(),
        "conv4": nn.Conv2d(64, 64, 3),                          # 64 x 29 x 29
        "pool4": PooledReLU(2),                                 # 64 x 14 x 14
        "dropout4": BitDropout(0.2),
        "conv5": nn.Conv2d(64, 128, 3, padding=1),              # 128 x 14 x 14
        "relu5": nn.ReLU(),
        "conv6": nn.Conv2d(128, 128, 3),                        # 128 x 12 x 12
        "pool6": PooledReLU(2),                                 # 128 x 6 x 6
        "dropout6": BitDropout(0.2),
        "conv7": nn.Conv2d(128, 512, 5, padding=2),             # 512 x 6 x 6
        "relu7": nn.ReLU(),
        "conv8": UnfoldConv2d(512, 512, 5),                     # 512 x 2 x 2
        "pool8": nn.AdaptiveMaxPool2d(1),                       # 512 x 1 x 1
        "relu8": nn.ReLU(),
        "dropout8": BitDropout(0.2),
        "flatten": nn.Flatten(),                                # 512
        "hidden": nn.Linear(512, 1024),                         # 1024
        "relu9": nn.ReLU(),
        "dropout9": BitDropout(0.2),
        "output": nn.Linear(1024, outputs),
    })


def lstm(channels: int, image_size: int, outputs: int) -> Network:
    """Two LSTM layers that read the image row by row; the outputs of all steps are used.

    torch has two bias vectors per layer, Keras one: 1,024 more parameters for the same functions.
    """
    require_size("lstm", image_size, least=1)
    return Network({                                                                # 64 pixels, 1 channel:
        "rows": ImageRows(),                                                        # 64 steps x 64
        "lstm": SequenceLSTM(channels * image_size, 128, num_layers=2, batch_first=True),  # 64 steps x 128
        "flatten": nn.Flatten(),                                                    # 8 192
        "hidden": nn.Linear(128 * image_size, 64),                                  # 64
        "relu": nn.ReLU(),
        "output": nn.Linear(64, outputs),
    })


def mlp_a(channels: int, image_size: int, outputs: int) -> Network:
    """Two hidden layers on the pixels."""
    require_size("mlp_a", image_size, least=1)
    return Network({                                            # 64 pixels, 1 channel:
        "flatten": nn.Flatten(),                                # 4 096
        "hidden1": nn.Linear(channels * image_size**2, 256),    # 256
        "relu1": nn.ReLU(),
        "hidden2": nn.Linear(256, 256),                         # 256
        "relu2": nn.ReLU(),
        "output": nn.Linear(256, outputs),
    })


def mlp_b(channels: int, image_size: int, outputs: int) -> Network:
    """A linear layer, a hidden layer, dropout and batch normalisation; a training batch needs at least two images."""
    require_size("mlp_b", image_size, least=1)
    return Network({                                            # 64 pixels, 1 channel:
        "flatten": nn.Flatten(),                                # 4 096
        "linear": nn.Linear(channels * image_size**2, 256),     # 256, without activation, as in the reference
        "hidden": nn.Linear(256, 100),                          # 100
        "relu": nn.ReLU(),
        "dropout": BitDropout(0.5),
        "norm": nn.BatchNorm1d(100, **KERAS_BATCH_NORM),
        "output": nn.Linear(100, outputs),
    })


def pixels(channels: int, image_size: int, outputs: int) -> Network:
    """No backbone: the pixels are the features, as for the support vector machine of the reference."""
    require_size("pixels", image_size, least=1)
    return Network({                                            # 64 pixels, 1 channel:
        "flatten": nn.Flatten(),                                # 4 096
        "output": nn.Linear(channels * image_size**2, outputs),
    })


def require_size(name: str, image_size: int, least: int) -> None:
    """Raises ValueError if images are too small for a network."""
    if image_size < least:
        raise ValueError(f"{name} needs images of at least {least} pixels, not {image_size}; raise image_size")


def _initialise(network: Network) -> None:
    """Initialises weights as He et al. before a ReLU and as Glorot & Bengio elsewhere, biases as 0, LSTMs as Keras.

    Sources: He et al. 2015, https://arxiv.org/abs/1502.01852; Glorot & Bengio 2010; keras.layers.LSTM.
    """
    linear = ("output", "linear")  # no activation follows
    for name, stage in network.named_children():
        if isinstance(stage, (nn.Conv2d, nn.Linear)):
            if name in linear:
                nn.init.xavier_uniform_(stage.weight)
            else:
                nn.init.kaiming_normal_(stage.weight, nonlinearity="relu")
            nn.init.zeros_(stage.bias)
        elif isinstance(stage, nn.LSTM):
            _initialise_lstm(stage)


def _initialise_lstm(stage: nn.LSTM) -> None:
    for name, parameter in stage.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(parameter)
        else:
            nn.init.zeros_(parameter)
            if name.startswith("bias_ih"):  # gates: input, forget, cell, output; Keras' unit_forget_bias
                nn.init.ones_(parameter.data[stage.hidden_size : 2 * stage.hidden_size])


NETWORKS: dict[str, Callable[[int, int, int], Network]] = {  # (channels, image size, outputs) -> network
    "cnn_a": cnn_a,
    "cnn_b": cnn_b,
    "cnn_c": cnn_c,
    "cnn_d": cnn_d,
    "cnn_e": cnn_e,
    "lstm": lstm,
    "mlp_a": mlp_a,
    "mlp_b": mlp_b,
    "pixels": pixels,
}
