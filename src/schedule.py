"""Step to factor on the learning rate."""

import math


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Factor in (0, 1] at `step` of `steps`: a straight climb over the share `warmup`, then half a cosine down.

    Neither the first step nor the last has the factor 0, which would waste them.
    Source: Loshchilov & Hutter 2017, eq. 5, https://arxiv.org/abs/1608.03983; the climb: Goyal et al. 2017, sec. 2.2.
    """
    climb = max(1, round(warmup * steps))
    if step < climb:
        return (step + 1) / climb
    return 0.5 * (1 + math.cos(math.pi * (step - climb + 1) / (steps - climb + 1)))
