"""Support vector machines as a head: features (B, D) to logits (B, K)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VECTORS_AT_ONCE = 4096  # support vectors whose kernel with a batch is in memory at a time


@dataclass(frozen=True)
class SVM:
    """One fitted support vector machine and its sigmoid: logit = slope * (coefficients @ kernel + intercept) + offset.

    Without support vectors the logit is `offset` for every image.
    """

    rows: Tensor          # (s,) int64, the support vectors among the rows it was fitted on
    coefficients: Tensor  # (s,) dual coefficients, with the sign of their class
    intercept: float
    slope: float
    offset: float


class SupportVectors(nn.Module):
    """Support vector machines with a Gaussian kernel, one per label: features (B, D) to logits (B, K).

    All labels share the vectors (S, D), each with its own coefficients (K, S). `exclusive` (for classes): the logits
    are the logarithms of the sigmoids, so that softmax divides each sigmoid by the sum of all.
    Memory grows with B and D but not with B times S: the kernel is computed for VECTORS_AT_ONCE vectors at a time.
    Sources: Boser, Guyon & Vapnik 1992, https://doi.org/10.1145/130385.130401; the sigmoid: Platt 1999.
    """

    def __init__(self, vectors: int, features: int, outputs: int, exclusive: bool):
        super().__init__()
        self.exclusive = exclusive
        # parameters, so that they are counted and saved like those of other heads; no gradient changes them
        for name, shape in (("vectors", (vectors, features)), ("coefficients", (outputs, vectors)), ("gamma", ()),
                            ("intercept", (outputs,)), ("slope", (outputs,)), ("offset", (outputs,))):
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))

    @classmethod
    def from_machines(cls, machines: list[SVM], features: Tensor, gamma: float, exclusive: bool) -> "SupportVectors":
        """The machines of all labels as one module. features: (n, D), the rows they were fitted on."""
        rows = torch.cat([machine.rows for machine in machines]).unique()  # ascending
        module = cls(len(rows), features.shape[1], len(machines), exclusive)
        module.vectors.copy_(features[rows])
        module.gamma.fill_(gamma)
        for k, machine in enumerate(machines):
            places = torch.searchsorted(rows, machine.rows)  # a row with a soft target can occur twice
            module.coefficients[k].index_add_(0, places, machine.coefficients.float())
            module.intercept[k], module.slope[k], module.offset[k] = machine.intercept, machine.slope, machine.offset
        return module

    def decide(self, features: Tensor) -> Tensor:
        """(B, K) the machines' decision values before the sigmoid, above 0 where a label is present."""
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
    """(B, S) from (B, D) and (S, D). Both are centred first: differences of small numbers lose fewer digits."""
    centre = other.mean(dim=0)
    one, other = one - centre, other - centre
    squares = one.square().sum(dim=1, keepdim=True) + other.square().sum(dim=1)
    return (squares - 2 * one @ other.T).clamp(min=0)
