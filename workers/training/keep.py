"""What a checkpoint holds, and how training goes on from one: bit for bit, at the same world size.

The tensors are the net, what the stage trains beside it, and the optimizer's state. The state is
where the training is and its figures so far. Each rank adds its generators' states and its own sum
of losses.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from workers.checkpoint.reader import Loaded, load, newest_whole, peek_state
from workers.contract.manifest import CheckpointDamaged
from workers.contract.outcome import ConfigFailure, NonFiniteFailure, StorageFailure
from workers.contract.reports import CheckpointRef, Noticed
from workers.parallel.collectives import from_first, settle_buffers
from workers.stages.catalog import StagePlan
from workers.stages.objective import Objective
from workers.training.course import Course
from workers.training.optimizer import Optimizer
from workers.training.tally import Tally

STATE_VERSION = 1


@dataclass(frozen=True)
class Position:
    """Where the training is, and what it found out on the way."""

    stage_index: int = 0
    stage_step: int = 0  # optimizer steps done in the stage
    is_stage_over: bool = False
    seconds: float = 0.0  # training time of the stage, over attempts
    epoch_loss_sum: float = 0.0  # of the epoch so far, mean over ranks
    loss_first: float | None = None  # mean loss of the stage's first epoch, once it is over
    loss_last: float | None = None  # mean loss of its last whole epoch
    validation: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    best_validation_error: float | None = None  # in %
    noticed: tuple[str, ...] = ()  # codes that the stage has told; each is told once

    def next_stage(self) -> "Position":
        """Return the beginning of the next stage."""
        return Position(
            stage_index=self.stage_index + 1,
            validation=self.validation,
            best_validation_error=self.best_validation_error,
        )


@dataclass(frozen=True)
class Trained:
    """What a stage changes while it runs, each part in place."""

    objective: Objective
    optimizer: Optimizer
    tally: Tally


def save(course: Course, plan: StagePlan, trained: Trained, position: Position) -> None:
    """Write a checkpoint and tell of it; every rank calls it after the same step.

    Raises:
        NonFiniteFailure: some weight is NaN or infinite; such a net is not worth keeping.
        StorageFailure: storage refused.
    """
    course.listener.phase("checkpoint")
    settle_buffers(course.net.buffers(), course.seat)
    weights = [parameter.detach() for parameter in trained.objective.parameters()]
    if not math.isfinite(float(sum(torch._foreach_norm(weights)))):
        raise non_finite(plan, position.stage_step)
    position = replace(position, epoch_loss_sum=trained.tally.epoch_sum())
    step = plan.first_step + position.stage_step
    written = course.writer.save(
        stage_index=plan.index,
        stage=plan.name,
        step=step,
        tensors=_tensors(course, trained),
        state=_state(course, plan, position),
        rank_tensors={**_generators(course), "loss_sum": trained.tally.own_sum()},
    )
    if written is not None:
        course.tell(written)
    course.listener.phase("train")


def find(course: Course) -> tuple[CheckpointRef | None, Position]:
    """Return the newest whole checkpoint that the launch names, and where it stands.

    None where there is none, which begins at the beginning. Collective; tells of every checkpoint
    that had to be passed over.
    """
    storage_url, refs = course.launch.storage_url, course.launch.resume

    def ask() -> tuple[CheckpointRef | None, tuple[str, ...], dict[str, Any]]:
        found, refused = newest_whole(storage_url, refs)
        return found, refused, peek_state(storage_url, found) if found is not None else {}

    ref, refused, state = from_first(ask, course.seat)
    for sentence in refused:
        course.tell(Noticed(code="checkpoint_fallback", sentence=sentence))
    if ref is None:
        return None, Position()
    return ref, _position(state)


def restore_net(course: Course, ref: CheckpointRef) -> None:
    """Load the net's weights in place; the inputs of its stage are computed with them.

    Raises:
        StorageFailure: storage can't be read, or it was changed since it was found.
    """
    _load(course, ref, _tensors(course, None))


def restore_stage(course: Course, ref: CheckpointRef, trained: Trained) -> None:
    """Load all that a stage changes in place, the net too: building a stage may change it.

    The generators come last, because building a stage may draw from them.

    Raises:
        StorageFailure: as `restore_net`.
    """
    loaded = _load(course, ref, _tensors(course, trained))
    if loaded.state["world_size"] != course.seat.world_size:
        # The same order of data, but other random numbers: there are other ranks to draw them.
        trained.tally.restore_mean(loaded.state["position"]["epoch_loss_sum"])
        return
    trained.tally.restore(loaded.rank_tensors["loss_sum"])
    torch.set_rng_state(loaded.rank_tensors["rng_cpu"])
    if course.seat.device.type == "cuda" and "rng_cuda" in loaded.rank_tensors:
        torch.cuda.set_rng_state(loaded.rank_tensors["rng_cuda"], course.seat.device)


def non_finite(plan: StagePlan, stage_step: int) -> NonFiniteFailure:
    """Return the failure of a stage whose loss or weights are no numbers any more."""
    return NonFiniteFailure(
        f"The loss or the weights of {plan.name} became NaN or infinite by its step {stage_step}; "
        "lower the learning rate, or set training.clip_norm"
    )


def _tensors(course: Course, trained: Trained | None) -> dict[str, Any]:
    tensors: dict[str, Any] = {"net": course.net.state_dict()}
    if trained is not None:
        tensors["optimizer"] = trained.optimizer.tensors()
        own = trained.objective.own_tensors()
        if own:
            tensors["stage"] = own
    return tensors


def _state(course: Course, plan: StagePlan, position: Position) -> dict[str, Any]:
    return {
        "version": STATE_VERSION,
        "world_size": course.seat.world_size,
        "stage": plan.name,
        "epoch": position.stage_step // plan.steps_per_epoch,
        "step": plan.first_step + position.stage_step,
        "samples": plan.first_sample + position.stage_step * plan.batch_size,
        "position": dict(vars(position)),
    }


def _position(state: dict[str, Any]) -> Position:
    if state.get("version") != STATE_VERSION:
        raise ConfigFailure(
            f"resume: the checkpoint has version {state.get('version')}, this code reads version "
            f"{STATE_VERSION}; submit the job anew"
        )
    position = Position(**state["position"])
    return replace(position, noticed=tuple(position.noticed))  # JSON knows lists only


def _generators(course: Course) -> dict[str, Tensor]:
    states = {"rng_cpu": torch.get_rng_state()}
    if course.seat.device.type == "cuda":
        states["rng_cuda"] = torch.cuda.get_rng_state(course.seat.device)
    return states


def _load(course: Course, ref: CheckpointRef, tensors: dict[str, Any]) -> Loaded:
    try:
        return load(course.launch.storage_url, ref, tensors, course.seat.rank)
    except CheckpointDamaged as error:  # the next attempt will pass it over
        raise StorageFailure(f"{ref.path} was damaged while it was loaded: {error}") from error
