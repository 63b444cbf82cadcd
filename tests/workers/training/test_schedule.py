"""The rate of every step is the one that its formula, or torch's own schedule, gives."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from workers.contract.recipe import Recipe
from workers.stages.catalog import StagePlan, plan_stages
from workers.training.schedule import lr_at, momentum_at

STEPS = 100  # ten epochs of ten steps


def _plan(**schedule: Any) -> StagePlan:
    recipe = Recipe.model_validate(
        {
            "data": {"source": "digits"},
            "model": {"kind": "mlp", "hidden": [5]},
            "training": {
                "epochs": 10,
                "optimizer": {"name": "sgd", "lr": 2.0},
                "schedule": schedule,
            },
        }
    )
    return plan_stages(recipe, 1000, 1000, 1)[0]


def _rates(**schedule: Any) -> list[float]:
    plan = _plan(**schedule)
    return [lr_at(plan, step) for step in range(STEPS)]


def test_the_rate_warms_up_and_then_falls_by_half_a_cosine() -> None:
    rates = _rates(name="cosine", warmup_epochs=2)
    assert [rates[step] for step in (0, 9, 19, 20)] == [0.1, 1.0, 2.0, 2.0]
    assert rates[60] == pytest.approx(1.0)
    assert 0.0 < rates[99] < 0.01
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_a_constant_rate_is_the_full_one_to_the_end() -> None:
    assert _rates() == [2.0] * STEPS


def test_a_linear_rate_falls_by_the_same_amount_each_step_to_its_last_fraction() -> None:
    rates = _rates(name="linear", warmup_epochs=2, final_fraction=0.1)
    falls = [first - second for first, second in pairwise(rates[20:])]
    assert falls == pytest.approx([1.8 / 80] * 79)
    assert rates[20] == 2.0
    assert rates[99] == pytest.approx(0.2 + 1.8 / 80)


def test_a_cosine_ends_at_its_last_fraction() -> None:
    assert _rates(name="cosine", final_fraction=0.25)[-1] == pytest.approx(0.5, abs=0.001)


def _of_torch(build: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    schedule, rates = build(optimizer), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_steps_fall_at_the_epochs_listed_as_in_torch() -> None:
    theirs = _of_torch(lambda one: MultiStepLR(one, [30, 60], gamma=0.3))
    assert _rates(name="step", at_epochs=[3, 6], factor=0.3) == pytest.approx(theirs)


def _warmed_up(optimizer: torch.optim.Optimizer, then: Any) -> SequentialLR:
    """Twenty steps of warm-up, the last of which has the full rate."""
    return SequentialLR(optimizer, [LinearLR(optimizer, 1 / 20, 1.0, 19), then], [20])


def test_a_warm_up_before_a_cosine_or_a_line_is_that_of_torch() -> None:
    cosine = _of_torch(lambda one: _warmed_up(one, CosineAnnealingLR(one, 80, eta_min=0.2)))
    assert _rates(name="cosine", warmup_epochs=2, final_fraction=0.1) == pytest.approx(cosine)
    line = _of_torch(lambda one: _warmed_up(one, LinearLR(one, 1.0, 0.1, 80)))
    assert _rates(name="linear", warmup_epochs=2, final_fraction=0.1) == pytest.approx(line)


def test_one_cycle_is_that_of_torch_but_for_where_its_turning_point_falls() -> None:
    theirs = _of_torch(lambda one: OneCycleLR(one, 2.0, total_steps=STEPS, cycle_momentum=False))
    ours = _rates(name="one_cycle")
    assert ours == pytest.approx(theirs, abs=0.06)  # it counts intervals between steps, we steps
    assert ours[0] == theirs[0]
    assert max(ours) == ours[30] == 2.0
    assert math.isclose(ours[15], 1.04)  # half way up, from 0.08


def test_the_momentum_switches_at_its_epoch() -> None:
    recipe = Recipe.model_validate(
        {
            "data": {"source": "digits"},
            "model": {"kind": "mlp", "hidden": [5], "activation": "sigmoid"},
            "pretraining": {"method": "rbm", "momentum_switch_epoch": 3},
        }
    )
    plan = plan_stages(recipe, 1000, 1000, 1)[0]
    assert [momentum_at(plan, epoch) for epoch in (0, 2, 3, 9)] == [0.5, 0.5, 0.9, 0.9]
