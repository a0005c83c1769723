"""The learning rate's way up and down, when to stop, and the average of the weights."""

import math

import pytest
import torch
from torch import nn

from common.settings import read_value
from training.optimization import EMA, SCHEDULES, EarlyStopping, warmup_cosine


@pytest.mark.parametrize("steps, warmup", [(1, 0.1), (1, 0.0), (2, 0.5), (10, 0.0), (100, 0.1), (97, 0.3), (10, 0.99)])
def test_schedule_factors_are_positive_and_reach_1(steps, warmup):
    factors = [warmup_cosine(step, steps, 1, warmup) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors) and max(factors) == 1
    peak = factors.index(1)
    assert factors[:peak] == sorted(factors[:peak]) and factors[peak:] == sorted(factors[peak:], reverse=True)


def test_the_climb_is_straight_and_the_way_down_half_a_cosine():
    factors = [warmup_cosine(step, 100, 1, 0.2) for step in range(100)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    # 81 steps from the peak to 0, the last of which is not taken any more
    assert factors[19:] == pytest.approx([(1 + math.cos(math.pi * step / 81)) / 2 for step in range(81)])


def test_the_step_after_the_last_has_a_factor_too():  # torch's scheduler asks for it
    assert warmup_cosine(10, 10, 1, 0.1) == pytest.approx(0, abs=1e-12)
    assert 0 <= warmup_cosine(10, 10, 1, 0.99) <= 1


def torchs_factors(scheduler_of, steps: int) -> list[float]:
    """What one of torch's schedulers makes of a learning rate of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, factors = scheduler_of(optimizer), []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize("steps", [4, 10, 97])
def test_one_cycle_is_torchs(steps):
    torchs = torchs_factors(lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=steps + 1), steps)
    assert [SCHEDULES["one_cycle"](step, steps + 1, 5, 0.1) for step in range(steps)] == pytest.approx(torchs)


def test_steps_are_torchs_with_a_climb_before_them():
    torchs = torchs_factors(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5), 6)
    by_step = [SCHEDULES["step"](step, 60, 10, 0.0, 2, 0.5) for step in range(60)]
    assert by_step == [factor for factor in torchs for _ in range(10)]
    climbing = [SCHEDULES["step"](step, 60, 10, 0.1, 2, 0.5) for step in range(60)]
    assert climbing[:6] == pytest.approx([(step + 1) / 6 for step in range(6)]) and climbing[6:] == by_step[6:]


@pytest.mark.parametrize("text", ["constant", "plateau:3:0.1"])
def test_constant_is_constant_after_the_climb(text):
    schedule = read_value("schedule", text, SCHEDULES)
    factors = [schedule(step, 10, 5, 0.2) for step in range(10)]
    assert factors == [0.5] + [1.0] * 9


def test_training_ends_patience_epochs_after_the_best():
    stopping = EarlyStopping(greater_is_better=True)
    seen = []
    for score in (0.5, 0.7, 0.7, 0.6):
        seen.append((stopping.update(score), stopping.should_stop(2)))
    assert seen == [(True, False), (True, False), (False, False), (False, True)]
    assert (stopping.best, stopping.best_epoch) == (0.7, 1) and not stopping.should_stop(0)


def test_where_less_is_better_less_is_better():
    stopping = EarlyStopping(greater_is_better=False)
    assert [stopping.update(score) for score in (0.5, 0.4, 0.6)] == [True, True, False]


def test_the_rate_is_lowered_as_torchs_plateau_does():
    scores = [0.5, 0.6, 0.6, 0.59, 0.58, 0.6, 0.7, 0.1, 0.1, 0.1, 0.1]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.1, patience=1, threshold=0)
    stopping, ours, theirs = EarlyStopping(greater_is_better=True), [], []
    for score in scores:
        torchs.step(score)
        theirs.append(optimizer.param_groups[0]["lr"])
        stopping.update(score)
        stopping.reduce_lr(2, 0.1)  # torch lowers after more than `patience` epochs, Keras and we after as many
        ours.append(stopping.factor)
    assert ours == pytest.approx(theirs)


def test_an_undefined_validation_score_raises():
    with pytest.raises(ValueError, match="cannot be scored.*larger val_fraction"):
        EarlyStopping(greater_is_better=True).update(math.nan)


def test_a_stopping_comes_back_from_its_state():
    stopping, again = EarlyStopping(greater_is_better=True), EarlyStopping(greater_is_better=True)
    stopping.update(0.3)
    stopping.reduce_lr(0, 0.5)
    again.load_state_dict(stopping.state_dict())
    assert again == stopping


def one_weight(value: float) -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def follow(decay: float, values: list[float]) -> list[float]:
    """The average after each step, where the weight starts from 0 and then takes these values."""
    model, averages = one_weight(0), []
    ema = EMA(model, decay)
    for value in values:
        nn.init.constant_(model.weight, value)
        ema.update(model)
        averages.append(ema.model.weight.item())
    return averages


def test_the_average_is_what_the_recursion_says():
    average, expected = 0.0, []
    for step, value in enumerate([1.0, 2.0, 3.0, 4.0], 1):
        decay = min(0.2, step / (step + 9))
        average = decay * average + (1 - decay) * value
        expected.append(average)
    assert follow(0.2, [1.0, 2.0, 3.0, 4.0]) == pytest.approx(expected)


def test_the_moving_average_leaves_the_start_in_short_runs():
    assert follow(0.9999, [1.0] * 20)[-1] > 0.99999  # a fixed decay would give 0.002


def test_decay_0_follows_exactly():
    values = [0.1, 1e-8, 3e7, -2.0]
    assert follow(0.0, values) == torch.tensor(values).tolist()


def test_running_statistics_are_copied_and_counts_too():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ema = EMA(model, 0.9)
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    ema.update(model)
    for name, value in model.named_buffers():
        torch.testing.assert_close(ema.model.get_buffer(name), value, atol=0, rtol=0)
    assert ema.model[1].num_batches_tracked == 1


def test_the_average_is_a_copy_that_is_not_trained():
    model = one_weight(1)
    ema = EMA(model, 0.9)
    assert not ema.model.training and not any(parameter.requires_grad for parameter in ema.model.parameters())
    nn.init.zeros_(model.weight)
    assert ema.model.weight == 1
    assert model.training and model.weight.requires_grad


def test_a_resumed_moving_average_equals_an_uninterrupted_one(tmp_path):
    model = one_weight(1)
    ema = EMA(model, 0.9)
    for value in (3.0, 5.0):
        nn.init.constant_(model.weight, value)
        ema.update(model)
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    again = EMA(one_weight(0), 0.9)
    again.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    for average in (ema, again):
        average.update(one_weight(7))
    assert ema.model.weight == again.model.weight and ema.steps == again.steps == 3
