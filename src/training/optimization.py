"""How weights change: which of them learn, optimizers, learning rate schedules, early stopping, moving average."""

import copy
import math
import re
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from common.settings import Choice, read_value
from models.architectures import Network
from models.classifier import head_modules, weight_layers

MOMENTUM = 0.9


# ---- optimizers


def build_optimizer(model: nn.Module, optimizer: str, lr: float, weight_decay: float,
                    layer_decay: float = 1.0) -> Optimizer:
    """An optimizer of the model's weights that learn. optimizer: a name in OPTIMIZERS.

    lr: of the last layer; every layer nearer to the image has `layer_decay` times the rate of the one behind it (Howard
    & Ruder 2018, sec. 3.2, https://arxiv.org/abs/1801.06146).
    weight_decay: of matrices and kernels; biases and norms (at most one dimension) do not decay.
    """
    groups = weight_groups(model, weight_decay) if layer_decay == 1 else _by_layer(model, lr, weight_decay, layer_decay)
    return read_value("optimizer", optimizer, OPTIMIZERS)([group for group in groups if group["params"]], lr)


# build: (parameter groups, peak learning rate) -> a torch optimizer
OPTIMIZERS: dict[str, Choice] = {
    "adamw": Choice(build=lambda groups, lr: AdamW(groups, lr, fused=True)),
    "adam": Choice(build=lambda groups, lr: Adam(groups, lr, fused=True)),  # decay is part of the gradient
    "sgd": Choice(build=lambda groups, lr: SGD(groups, lr, momentum=MOMENTUM, fused=True)),
}


def weight_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Optimizer groups: matrices and kernels decay, biases and norms (one dimension or none) do not."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return _decay_apart(learning, weight_decay)


def _by_layer(model: nn.Module, lr: float, weight_decay: float, layer_decay: float) -> list[dict]:
    layers = weight_layers(model)
    depth_of = {id(parameter): depth for depth, layer in enumerate(layers) for parameter in layer}
    by_depth = [[] for _ in layers]
    for parameter in model.parameters():
        if parameter.requires_grad:
            by_depth[depth_of.get(id(parameter), 0)].append(parameter)  # position embeddings go with the first layer
    return [{**group, "lr": lr * layer_decay ** (len(layers) - 1 - depth)}
            for depth, parameters in enumerate(by_depth) for group in _decay_apart(parameters, weight_decay)]


def _decay_apart(parameters: list[nn.Parameter], weight_decay: float) -> list[dict]:
    return [{"params": [each for each in parameters if each.ndim >= 2], "weight_decay": weight_decay},
            {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0}]


# ---- learning rate


@dataclass(frozen=True, kw_only=True)
class Schedule(Choice):
    """A factor on the peak learning rate by step. An entry of SCHEDULES.

    build: (step from 0, steps, steps of an epoch, warmup as a share of the steps) -> a factor in (0, 1]. It is also
    asked for the step after the last.
    on_plateau: True where the factor is also multiplied by FACTOR whenever EPOCHS epochs have not improved the
    validation score; its arguments are these two.
    """

    on_plateau: bool = False


def climb(step: int, steps: int, steps_an_epoch: int, warmup: float, *_: float) -> float:
    """A straight climb over the share `warmup` of the steps, then 1."""
    return min(1.0, (step + 1) / max(1, round(warmup * steps)))


def step_decay(step: int, steps: int, steps_an_epoch: int, warmup: float, epochs: float, factor: float) -> float:
    """The climb, times `factor` each time `epochs` epochs have passed."""
    return climb(step, steps, steps_an_epoch, warmup) * factor ** (step // steps_an_epoch // int(epochs))


def warmup_cosine(step: int, steps: int, steps_an_epoch: int, warmup: float) -> float:
    """A straight climb over the share `warmup` of the steps, then half a cosine down.

    Neither the first step nor the last has the factor 0, which would waste them.
    Source: Loshchilov & Hutter 2017, eq. 5, https://arxiv.org/abs/1608.03983; the climb: Goyal et al. 2017, sec. 2.2.
    """
    top = max(1, round(warmup * steps))
    if step < top:
        return (step + 1) / top
    return 0.5 * (1 + math.cos(math.pi * (step - top + 1) / (steps - top + 1)))


ONE_CYCLE_CLIMB, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 25e4  # torch's defaults, as shares of the peak


def one_cycle(step: int, steps: int, *_: float) -> float:
    """Half a cosine up from 1/25 over 30 % of the steps, then half a cosine down to 1/250,000.

    The learning rate of torch's OneCycleLR; the momentum does not change. `warmup` has no effect.
    Source: Smith & Topin 2018, https://arxiv.org/abs/1708.07120.
    """
    top = ONE_CYCLE_CLIMB * steps - 1
    if step <= top:
        low, share = ONE_CYCLE_START, step / top if top > 0 else 1.0
        return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * share))
    share = min(1.0, (step - top) / (steps - 1 - top))
    return ONE_CYCLE_END + (1 - ONE_CYCLE_END) * 0.5 * (1 + math.cos(math.pi * share))


def _check_epochs(epochs: float, factor: float) -> str:
    valid = epochs >= 1 and epochs == int(epochs) and 0 < factor <= 1
    return "" if valid else "EPOCHS must be at least 1, a whole number, and FACTOR in (0, 1]"


SCHEDULES: dict[str, Schedule] = {
    "cosine": Schedule(build=warmup_cosine),
    "constant": Schedule(build=climb),
    "one_cycle": Schedule(build=one_cycle),
    "step": Schedule(build=step_decay, arguments=("EPOCHS", "FACTOR"), check=_check_epochs),
    "plateau": Schedule(build=climb, arguments=("EPOCHS", "FACTOR"), check=_check_epochs, on_plateau=True),
}


@dataclass
class EarlyStopping:
    """The best epoch of a stage by the validation score: when to stop, and when to lower the learning rate.

    Numbers only, so that a checkpoint can hold it.
    """

    greater_is_better: bool
    best: float = math.nan   # score
    best_epoch: int = -1     # of the stage, from 0
    epochs: int = 0          # seen
    waiting: int = 0         # epochs since the best one, or since the rate was reduced
    factor: float = 1.0      # on the learning rate

    def update(self, score: float) -> bool:
        """Takes the next epoch's score; returns True where it is the best so far. Raises ValueError where it is NaN."""
        if math.isnan(score):
            raise ValueError("the validation images cannot be scored: no label has both positives and negatives among "
                             "them; set a larger val_fraction, or patience=0 and another schedule")
        better = self.best_epoch < 0 or (score > self.best if self.greater_is_better else score < self.best)
        if better:
            self.best, self.best_epoch, self.waiting = score, self.epochs, 0
        else:
            self.waiting += 1
        self.epochs += 1
        return better

    def reduce_lr(self, patience: int, factor: float) -> None:
        """Multiplies `factor` where `patience` epochs in a row were not better, as Keras' ReduceLROnPlateau does."""
        if self.waiting >= patience:
            self.factor, self.waiting = self.factor * factor, 0

    def should_stop(self, patience: int) -> bool:
        """True where so many epochs have passed since the best one; never for 0."""
        return 0 < patience <= self.epochs - 1 - self.best_epoch

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


# ---- moving average


class EMA:
    """Keeps `model`, a copy of the network whose weights follow the trained one's as a moving average.

    The decay climbs as min(decay, steps / (steps + 9)): a fixed one leaves short runs near their random start. Batch
    norm's statistics are copied, since they are averages already. With decay 0 the copy equals the trained network.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """To be called after every optimizer step."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9))
        averages, weights = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.steps = state["steps"]


# ---- which weights learn


def set_trainable(model: nn.Module, what: str) -> None:
    """Lets a part of the network learn and freezes the rest.

    what: "all"; "head", the layers behind the backbone; "last8", the head and the backbone's last 8 layers with
    weights. Raises ValueError where the network has fewer layers than that, or no head of its own.
    """
    everything = what == "all"
    model.requires_grad_(everything)
    if everything:
        return
    heads = head_modules(model)
    if not heads:
        raise ValueError(f"stages={what}: this network has no head that could learn by itself; use all")
    for head in heads:
        head.requires_grad_(True)
    if match := re.fullmatch(r"last(\d+)", what):
        count = int(match[1])
        in_heads = {id(parameter) for head in heads for parameter in head.parameters()}
        layers = [layer for layer in weight_layers(model) if not any(id(each) in in_heads for each in layer)]
        if not 0 < count <= len(layers):
            raise ValueError(f"stages={what}: this network's backbone has {len(layers)} layers with weights")
        for layer in layers[-count:]:
            for parameter in layer:
                parameter.requires_grad_(True)


def freeze_modes(model: nn.Module) -> None:
    """Puts the parts without a weight that learns into evaluation mode; call it after every model.train().

    Otherwise a frozen backbone's batch norm would still follow the batches, and its dropout would still drop.
    """
    frozen = False  # whether the last layer with weights was
    for child in model.children():
        if weights := list(child.parameters()):
            frozen = not any(parameter.requires_grad for parameter in weights)
        if frozen and (weights or isinstance(model, Network)):  # ours are rows of layers, so a dropout's place is known
            child.eval()
        else:
            freeze_modes(child)
