"""What a checkpoint holds of a training: all that it takes to go on bit for bit.

The tensors are the net, what the stage trains beside it, and the optimizer's state. The state is
where the training is and its figures so far. Each rank adds its generators' states, its own sum of
losses, and what else of the stage is its own.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from workers.checkpoint.weights import NET
from workers.contract.outcome import ConfigFailure
from workers.optim.optimizer import Optimizer
from workers.stages.catalog import StagePlan
from workers.stages.objective import Objective
from workers.training.course import Course
from workers.training.position import Position
from workers.training.tally import Tally

STATE_VERSION = 1
OF_STAGE = "stage."  # how the names of a rank's own tensors of its stage begin


@dataclass(frozen=True)
class Trained:
    """What a stage changes while it runs, each part in place."""

    objective: Objective
    optimizer: Optimizer
    tally: Tally


def tensors_of(course: Course, trained: Trained | None) -> dict[str, Any]:
    """Return the tensors themselves, to save or to load into; only the net's without a stage."""
    tensors: dict[str, Any] = {NET: course.net.state_dict()}
    if trained is not None:
        tensors["optimizer"] = trained.optimizer.tensors()
        own = trained.objective.own_tensors()
        if own:
            tensors["stage"] = own
    return tensors


def state_of(course: Course, plan: StagePlan, position: Position) -> dict[str, Any]:
    """Return what JSON can say of a training; the same on every rank."""
    return {
        "version": STATE_VERSION,
        "world_size": course.seat.world_size,
        "stage": plan.name,
        "epoch": position.stage_step // plan.steps_per_epoch,
        "step": plan.first_step + position.stage_step,
        "samples": plan.first_sample + position.stage_step * plan.batch_size,
        "position": dict(vars(position)),
        "net": {  # enough to build it anew, without the job
            "model": course.recipe.model.model_dump(mode="json"),
            "shape": list(course.data.shape),
            "num_classes": course.data.num_classes,
            "code": course.recipe.code,
        },
    }


def position_of(state: dict[str, Any]) -> Position:
    """Return where such a state stands.

    Raises:
        ConfigFailure: another version of this code wrote it.
    """
    if state.get("version") != STATE_VERSION:
        raise ConfigFailure(
            f"resume: the checkpoint has version {state.get('version')}, this code reads version "
            f"{STATE_VERSION}; submit the job anew"
        )
    position = Position(**state["position"])
    return replace(position, noticed=tuple(position.noticed))  # JSON knows lists only


def rank_tensors_of(course: Course, trained: Trained) -> dict[str, Tensor]:
    """Return copies of what is this rank's own."""
    own = {
        "rng_cpu": torch.get_rng_state(),
        "loss_sum": trained.tally.own_sum(),
        **{OF_STAGE + name: one.clone() for name, one in trained.objective.rank_tensors().items()},
    }
    if course.seat.device.type == "cuda":
        own["rng_cuda"] = torch.cuda.get_rng_state(course.seat.device)
    return own


def restore_rank_tensors(course: Course, trained: Trained, own: dict[str, Tensor]) -> None:
    """Go on with what `rank_tensors_of` gave, of as many ranks as there are now."""
    trained.tally.restore(own["loss_sum"])
    trained.objective.restore_rank_tensors(
        {name.removeprefix(OF_STAGE): one for name, one in own.items() if name.startswith(OF_STAGE)}
    )
    torch.set_rng_state(own["rng_cpu"])
    if course.seat.device.type == "cuda" and "rng_cuda" in own:
        torch.cuda.set_rng_state(own["rng_cuda"], course.seat.device)
