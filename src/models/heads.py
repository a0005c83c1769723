"""What stands behind a network's backbone: taken out, put in, and support vector machines in a head's place."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiment import Experiment
from models.classifier import Classifier, PerTask, head_names
from models.knn_head import KNNHead

VECTORS_AT_ONCE = 4096  # support vectors whose kernel with a batch is in memory together


def uses_features(experiment: Experiment) -> bool:
    """True where the backbone never learns and sees every image alike, so that its features can be computed once."""
    frozen = experiment.head_fit != "gradient" or all(stage.what == "head" for stage in experiment.plan)
    alike = experiment.augmentation == "none" and experiment.mix == "none" and experiment.tta == ("identity",)
    return frozen and alike and not experiment.per_task


def head_name(model: Classifier | PerTask) -> str:
    """The name, in the model, of the one layer or stack of layers that turns features (B, D) into logits.

    Raises ValueError where there is not exactly one.
    """
    names = head_names(model)
    if len(names) != 1 or isinstance(model.get_submodule(names[0]), nn.Identity):
        raise ValueError("this network has no single head behind a vector of features; train it as a whole, with "
                         "head_fit=gradient and other stages than head")
    return names[0]


def take_head(model: Classifier) -> nn.Module:
    """Takes the head out; the model then gives its features, (B, D), in the place of logits."""
    name = head_name(model)
    head = model.get_submodule(name)
    model.set_submodule(name, nn.Identity())
    return head


def put_head(model: Classifier, name: str, head: nn.Module) -> Classifier:
    """Puts a head where `head_name` says it stands; returns the model."""
    model.set_submodule(name, head)
    if isinstance(head, KNNHead):  # who is nearest does not change by and by: no gradient leads to a layer
        model.cam_layers = {}
    return model


class FeatureClassifier(nn.Module):
    """A head by itself: features (B, D) to logits (B, K), with the dropout that stands before it in the network.

    The head stays the one it was given, so that what is trained here is trained in the network it came from.
    """

    def __init__(self, head: nn.Module, dropout: float):
        super().__init__()
        self.head, self.dropout = head, dropout

    def forward(self, features: Tensor) -> Tensor:
        return self.head(F.dropout(features, self.dropout, self.training))

    def clip_units(self) -> list[nn.Module]:
        """The parts whose gradients are clipped each by itself."""
        return [self]


@dataclass(frozen=True)
class SVM:
    """One fitted support vector machine and its sigmoid: logit = slope * (coefficients @ kernel + intercept) + offset.

    Without vectors it says `offset` of every image.
    """

    rows: Tensor          # (s,) int64, which of the rows it was fitted on are its support vectors
    coefficients: Tensor  # (s,) their dual coefficients, with the sign of their class
    intercept: float
    slope: float
    offset: float


class SupportVectors(nn.Module):
    """Support vector machines with a Gaussian kernel, one a label: features (B, D) to logits (B, K).

    All labels share the vectors (S, D) and each weighs them its own way (K, S). `exclusive`: of classes, where the
    logits are the logarithms of the sigmoids, so that softmax divides each sigmoid by the sum of all.
    Memory grows with B and D and not with B times S: the kernel is computed for VECTORS_AT_ONCE vectors at a time.
    Source: Boser, Guyon & Vapnik 1992, https://doi.org/10.1145/130385.130401; the sigmoid: Platt 1999.
    """

    def __init__(self, vectors: int, features: int, outputs: int, exclusive: bool):
        super().__init__()
        self.exclusive = exclusive
        # parameters, so that they are counted and found where other heads' are; but no gradient changes them
        for name, shape in (("vectors", (vectors, features)), ("coefficients", (outputs, vectors)), ("gamma", ()),
                            ("intercept", (outputs,)), ("slope", (outputs,)), ("offset", (outputs,))):
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))

    @classmethod
    def of_machines(cls, machines: list[SVM], features: Tensor, gamma: float, exclusive: bool) -> "SupportVectors":
        """The machines of all labels as one module. features (n, D): what they were fitted on."""
        rows = torch.cat([machine.rows for machine in machines]).unique()  # ascending
        module = cls(len(rows), features.shape[1], len(machines), exclusive)
        module.vectors.copy_(features[rows])
        module.gamma.fill_(gamma)
        for k, machine in enumerate(machines):
            places = torch.searchsorted(rows, machine.rows)  # one with a soft target can stand there twice
            module.coefficients[k].index_add_(0, places, machine.coefficients.float())
            module.intercept[k], module.slope[k], module.offset[k] = machine.intercept, machine.slope, machine.offset
        return module

    def decide(self, features: Tensor) -> Tensor:
        """The machines' own values (B, K), above 0 where a label is present, before the sigmoid."""
        sums = self.intercept.expand(len(features), -1)
        for first in range(0, len(self.vectors), VECTORS_AT_ONCE):
            part = slice(first, first + VECTORS_AT_ONCE)
            kernel = torch.exp(-self.gamma * _squared_distances(features, self.vectors[part]))
            sums = sums + kernel @ self.coefficients[:, part].T
        return sums

    def forward(self, features: Tensor) -> Tensor:
        logits = self.slope * self.decide(features.float()) + self.offset
        return F.logsigmoid(logits) if self.exclusive else logits


def _squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """(B, S) from (B, D) and (S, D), around the others' mean: numbers near 0 leave more digits to their difference."""
    centre = other.mean(dim=0)
    one, other = one - centre, other - centre
    squares = one.square().sum(dim=1, keepdim=True) + other.square().sum(dim=1)
    return (squares - 2 * one @ other.T).clamp(min=0)


def fit_head_to(model: Classifier, saved: dict[str, Tensor], exclusive: bool) -> None:
    """Puts what was fitted in the head's place, of the size that saved weights have."""
    name = head_name(model)
    if f"{name}.vectors" in saved:
        vectors, outputs = saved[f"{name}.vectors"], saved[f"{name}.intercept"]
        put_head(model, name, SupportVectors(*vectors.shape, len(outputs), exclusive))
    elif f"{name}.cases" in saved:
        put_head(model, name, KNNHead(*saved[f"{name}.cases"].shape, *saved[f"{name}.prior"].shape, exclusive))
    elif f"{name}.weight" in saved:  # logistic regression, in the place of whatever layers stood there
        outputs, features = saved[f"{name}.weight"].shape
        put_head(model, name, nn.Linear(features, outputs))
