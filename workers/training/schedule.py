"""The learning rate of every step, and the momentum: pure functions of the step's number."""

import math

from workers.contract.training_spec import Sgd
from workers.stages.catalog import StagePlan


def lr_at(plan: StagePlan, stage_step: int) -> float:
    """Return the learning rate of a step, from 0: linear warm-up, then constant or half a cosine.

    The first step of a warm-up of n steps has 1/n of the full rate; half a cosine comes down to
    (nearly) 0 at the last step.
    """
    lr_max = plan.optimizer.lr
    warmup_steps = round(plan.schedule.warmup_epochs * plan.steps_per_epoch)
    if stage_step < warmup_steps:
        return lr_max * (stage_step + 1) / warmup_steps
    if plan.schedule.name == "constant":
        return lr_max
    done = (stage_step - warmup_steps) / max(1, plan.steps - warmup_steps)
    return lr_max * 0.5 * (1.0 + math.cos(math.pi * done))


def momentum_at(plan: StagePlan, epoch: int) -> float:
    """Return the momentum in an epoch, from 0; 0 for optimizers that have none."""
    switch = plan.momentum_switch
    if switch is not None and epoch >= switch.epoch:
        return switch.momentum
    return plan.optimizer.momentum if isinstance(plan.optimizer, Sgd) else 0.0
