"""Saves checkpoints of a stage while it trains on, and at its end.

Training waits for a copy of what the next optimizer step would change; the rest happens beside it.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workers.checkpoint.background import LAST_SECONDS
from workers.checkpoint.writer import SavePoint
from workers.contract.outcome import NonFiniteFailure
from workers.contract.reports import CheckpointWritten, Noticed
from workers.parallel.collectives import settle_buffers
from workers.parallel.sharding import whole
from workers.stages.catalog import StagePlan
from workers.training.contents import Trained, rank_tensors_of, state_of, tensors_of
from workers.training.course import Course
from workers.training.position import Position

FAILED_SAVES_MAX = 3  # in a row: no hiccup any more, and the work at stake grows with each


def is_due(course: Course, plan: StagePlan, position: Position) -> bool:
    """Whether a checkpoint is to be saved at this step, whatever the time and the stage say."""
    step = plan.first_step + position.stage_step
    return step % course.recipe.checkpoint.every_steps == 0 or step == position.best_step


def save(course: Course, plan: StagePlan, trained: Trained, position: Position) -> None:
    """Save a checkpoint; every rank calls it after the same step.

    Within a stage it is only begun: training goes on while it is written, and `before_update` tells
    of it. At a stage's end it is durable and told when this returns.

    Raises:
        NonFiniteFailure: some weight is NaN or infinite; such a net is not worth keeping.
        StorageFailure: storage refused this one at a stage's end, or several in a row.
    """
    course.listener.phase("checkpoint")
    conclude(course, is_last=False)
    begun_at = time.perf_counter()
    settle_buffers(course.net.buffers(), course.seat)
    weights = [parameter.detach() for parameter in trained.objective.parameters()]
    if not math.isfinite(float(whole(torch.nn.utils.get_total_norm(weights)))):
        raise non_finite(plan, position.stage_step)
    position = replace(position, epoch_loss_sum=trained.tally.epoch_sum())
    step = plan.first_step + position.stage_step
    point = SavePoint(
        stage_index=plan.index,
        stage=plan.name,
        step=step,
        state=state_of(course, plan, position),
        rank_tensors=rank_tensors_of(course, trained),
        figure=_figure(course, position, step),
    )
    tensors = tensors_of(course, trained)
    if position.is_stage_over:  # waited for, so it needs no copy
        _tell(course, course.saves.writer.save(point, tensors, begun_at))
    else:
        course.saves.begin(point, _with_buffers_copied(tensors, course, trained), begun_at)
    course.listener.phase("train")


def before_update(course: Course) -> None:
    """Call it right before each optimizer step: a save still copies what the step changes."""
    course.saves.wait_staged()
    _tell(course, course.saves.poll())


@contextmanager
def landing(course: Course) -> Iterator[None]:
    """At the end of the block no save is under way, and the last one has been told.

    Raises:
        StorageFailure: the save that was under way failed.
    """
    try:
        yield
    except Exception:
        # The first cause is what the owner must read: whatever the save says is said beside it.
        with suppress(Exception):
            _tell(course, course.saves.landed(LAST_SECONDS).written)
            course.saves.close()
        raise
    course.listener.phase("checkpoint")
    conclude(course, is_last=True)
    course.saves.close()


def conclude(course: Course, is_last: bool) -> None:
    """Wait for the save that is under way, if one is; every rank calls it after the same step.

    Raises:
        StorageFailure: it failed, and is the last one or one too many in a row; else that is told.
    """
    landed = course.saves.landed()
    _tell(course, landed.written)
    if landed.failure is None:
        return
    if is_last or course.saves.num_failed >= FAILED_SAVES_MAX:
        raise landed.failure
    sentence = f"A checkpoint was not saved, training goes on: {landed.failure}."
    course.tell(Noticed(code="checkpoint_failed", sentence=sentence))


def non_finite(plan: StagePlan, stage_step: int) -> NonFiniteFailure:
    """Return the failure of a stage whose loss or weights are no numbers any more."""
    return NonFiniteFailure(
        f"The loss or the weights of {plan.name} became NaN or infinite by its step {stage_step}; "
        "lower the learning rate, or set training.clip_norm"
    )


def _figure(course: Course, position: Position, step: int) -> float | None:
    """What `checkpoint.best` asks for, if this very net was evaluated."""
    best = course.recipe.checkpoint.best
    if best is None or position.evaluated_step != step:
        return None
    figure = position.validation[best.figure]
    return figure if math.isfinite(figure) else None


def _tell(course: Course, written: CheckpointWritten | None) -> None:
    if written is not None:
        course.written.append(written.ref)
        course.tell(written)


def _with_buffers_copied(
    tensors: dict[str, Any], course: Course, trained: Trained
) -> dict[str, Any]:
    """The tensors to be saved, with a copy of all but what only the optimizer changes.

    Running statistics, chains and the like change in the forward pass already, before the copy that
    `before_update` waits for is done.
    """
    parameters = (*course.net.parameters(), *trained.objective.parameters())
    settled = {parameter.data_ptr() for parameter in parameters}

    def frozen(entry: Any) -> Any:
        if isinstance(entry, dict):
            return {name: frozen(value) for name, value in entry.items()}
        is_settled = not isinstance(entry, Tensor) or entry.data_ptr() in settled
        return entry if is_settled else entry.clone()

    return {
        part: content if part == "optimizer" else frozen(content)
        for part, content in tensors.items()
    }
