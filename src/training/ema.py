"""A moving average of a network's weights."""

import copy

import torch
from torch import nn


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
