"""The learning rate of every step, and the momentum: pure functions of the step's number."""

import math
from typing import assert_never

from workers.contract.training_spec import ScheduleSpec, Sgd
from workers.stages.catalog import StagePlan

# Of one cycle, as in torch's OneCycleLR (Smith and Topin, 2018).
RISING = 0.3  # of the steps
FIRST = 1 / 25  # of the full rate
LAST = 1 / 25e4


def lr_at(plan: StagePlan, stage_step: int) -> float:
    """Return the learning rate of a step, from 0: linear warm-up, then what the schedule says.

    The first step of a warm-up of n steps has 1/n of the full rate; what comes down reaches its end
    (nearly) at the last step.
    """
    lr_max, spec = plan.optimizer.lr, plan.schedule
    warmup_steps = round(spec.warmup_epochs * plan.steps_per_epoch)
    if stage_step < warmup_steps:
        return lr_max * (stage_step + 1) / warmup_steps
    done = (stage_step - warmup_steps) / max(1, plan.steps - warmup_steps)
    return lr_max * _fraction(spec, done, stage_step // plan.steps_per_epoch)


def momentum_at(plan: StagePlan, epoch: int) -> float:
    """Return the momentum in an epoch, from 0; 0 for optimizers that have none."""
    switch = plan.momentum_switch
    if switch is not None and epoch >= switch.epoch:
        return switch.momentum
    return plan.optimizer.momentum if isinstance(plan.optimizer, Sgd) else 0.0


def _fraction(spec: ScheduleSpec, done: float, epoch: int) -> float:
    """Of the full rate, when a part `done` of the steps after the warm-up is over."""
    match spec.name:
        case "constant":
            return 1.0
        case "cosine":
            return _half_cosine(1.0, spec.final_fraction, done)
        case "linear":
            return 1.0 - done * (1.0 - spec.final_fraction)
        case "step":
            return spec.factor ** sum(epoch >= change for change in spec.at_epochs)
        case "one_cycle":
            if done < RISING:
                return _half_cosine(FIRST, 1.0, done / RISING)
            return _half_cosine(1.0, LAST, (done - RISING) / (1.0 - RISING))
        case _:
            assert_never(spec.name)


def _half_cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * done))
