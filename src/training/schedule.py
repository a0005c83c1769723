"""Step to factor on the learning rate: cosine, constant, one cycle, steps."""

import math

ONE_CYCLE_CLIMB, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 25e4  # torch's defaults, as shares of the peak


def lr_factor(kind: str, step: int, steps: int, steps_an_epoch: int, warmup: float,
              numbers: tuple[float, ...] = ()) -> float:
    """Factor in (0, 1] on the peak learning rate at `step` of `steps`, counted from 0.

    kind: "cosine"; "constant"; "one_cycle", which has a climb of its own; "step", numbers (epochs, factor): times the
    factor whenever so many epochs have passed; "plateau", constant here, since scores lower it. All but one_cycle climb
    straight over the share `warmup` of the steps first.
    """
    if kind == "one_cycle":
        return one_cycle(step, steps)
    if kind == "cosine":
        return warmup_cosine(step, steps, warmup)
    climb = min(1.0, (step + 1) / max(1, round(warmup * steps)))
    if kind == "step":
        epochs, factor = numbers
        return climb * factor ** (step // steps_an_epoch // int(epochs))
    return climb


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Factor in (0, 1] at `step` of `steps`: a straight climb over the share `warmup`, then half a cosine down.

    Neither the first step nor the last has the factor 0, which would waste them.
    Source: Loshchilov & Hutter 2017, eq. 5, https://arxiv.org/abs/1608.03983; the climb: Goyal et al. 2017, sec. 2.2.
    """
    climb = max(1, round(warmup * steps))
    if step < climb:
        return (step + 1) / climb
    return 0.5 * (1 + math.cos(math.pi * (step - climb + 1) / (steps - climb + 1)))


def one_cycle(step: int, steps: int) -> float:
    """Half a cosine up from 1/25 over 30 % of the steps, then half a cosine down to 1/250,000: torch's OneCycleLR.

    Source: Smith & Topin 2018, https://arxiv.org/abs/1708.07120.
    """
    top = ONE_CYCLE_CLIMB * steps - 1
    if step <= top:
        low, share = ONE_CYCLE_START, step / top if top > 0 else 1.0
        return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * share))
    share = min(1.0, (step - top) / (steps - 1 - top))
    return ONE_CYCLE_END + (1 - ONE_CYCLE_END) * 0.5 * (1 + math.cos(math.pi * share))
