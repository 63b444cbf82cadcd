"""What a checkpoint holds, and how training goes on from one: bit for bit, at the same world size.

The tensors are the net, what the stage trains beside it, and the optimizer's state. The state is
where the training is and its figures so far. Each rank adds its generators' states and its own sum
of losses.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from workers.checkpoint.background import LAST_SECONDS
from workers.checkpoint.reader import Loaded, load, newest_whole, peek_state
from workers.checkpoint.weights import NET
from workers.checkpoint.writer import SavePoint
from workers.contract.manifest import CheckpointDamaged
from workers.contract.outcome import ConfigFailure, NonFiniteFailure, StorageFailure
from workers.contract.reports import CheckpointRef, CheckpointWritten, Noticed
from workers.optim.optimizer import Optimizer
from workers.parallel.collectives import from_first, settle_buffers
from workers.parallel.sharding import whole
from workers.stages.catalog import StagePlan
from workers.stages.objective import Objective
from workers.training.ancestor import begin_from
from workers.training.course import Course
from workers.training.position import Position
from workers.training.tally import Tally

STATE_VERSION = 1
OF_STAGE = "stage."  # how the names of a rank's own tensors of its stage begin
FAILED_SAVES_MAX = 3  # in a row: no hiccup any more, and the work at stake grows with each


@dataclass(frozen=True)
class Trained:
    """What a stage changes while it runs, each part in place."""

    objective: Objective
    optimizer: Optimizer
    tally: Tally


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
    _conclude(course, is_last=False)
    begun_at = time.perf_counter()
    settle_buffers(course.net.buffers(), course.seat)
    weights = [parameter.detach() for parameter in trained.objective.parameters()]
    if not math.isfinite(float(whole(torch.nn.utils.get_total_norm(weights)))):
        raise non_finite(plan, position.stage_step)
    position = replace(position, epoch_loss_sum=trained.tally.epoch_sum())
    own = trained.objective.rank_tensors()
    step = plan.first_step + position.stage_step
    point = SavePoint(
        stage_index=plan.index,
        stage=plan.name,
        step=step,
        state=_state(course, plan, position),
        rank_tensors={
            **_generators(course),
            "loss_sum": trained.tally.own_sum(),
            **{OF_STAGE + name: one.clone() for name, one in own.items()},
        },
        figure=_figure(course, position, step),
    )
    tensors = _tensors(course, trained)
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
    _conclude(course, is_last=True)
    course.saves.close()


def _conclude(course: Course, is_last: bool) -> None:
    """Wait for the save that is under way; a failure is told, or raised where it is the last."""
    landed = course.saves.landed()
    _tell(course, landed.written)
    if landed.failure is None:
        return
    if is_last or course.saves.num_failed >= FAILED_SAVES_MAX:
        raise landed.failure
    sentence = f"A checkpoint was not saved, training goes on: {landed.failure}."
    course.tell(Noticed(code="checkpoint_failed", sentence=sentence))


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
        if course.recipe.init_from is not None:
            begin_from(course, course.recipe.init_from)
        return None, Position()
    return ref, _position(state)


def newest_of_stage(course: Course, plan: StagePlan) -> tuple[CheckpointRef | None, Position]:
    """Return the newest whole checkpoint of a stage, and where it stands; collective.

    None where there is none. A save that is under way is waited for.
    """
    _conclude(course, is_last=False)
    storage_url = course.launch.storage_url

    def ask() -> tuple[CheckpointRef | None, dict[str, Any]]:
        refs = [*reversed(course.written), *course.launch.resume]
        found, _ = newest_whole(storage_url, [ref for ref in refs if ref.stage_index == plan.index])
        return found, peek_state(storage_url, found) if found is not None else {}

    ref, state = from_first(ask, course.seat)
    return (None, Position()) if ref is None else (ref, _position(state))


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
    own = {
        name.removeprefix(OF_STAGE): one
        for name, one in loaded.rank_tensors.items()
        if name.startswith(OF_STAGE)
    }
    size_before: int = loaded.state["world_size"]
    if size_before != course.seat.world_size:
        # The same order of data, but other random numbers: there are other ranks to draw them.
        trained.tally.restore_mean(loaded.state["position"]["epoch_loss_sum"])
        trained.objective.restore_rank_tensors({})
        if own:
            _tell_of_chains(course, ref.stage, size_before)
        return
    trained.tally.restore(loaded.rank_tensors["loss_sum"])
    trained.objective.restore_rank_tensors(own)
    torch.set_rng_state(loaded.rank_tensors["rng_cpu"])
    if course.seat.device.type == "cuda" and "rng_cuda" in loaded.rank_tensors:
        torch.cuda.set_rng_state(loaded.rank_tensors["rng_cuda"], course.seat.device)


def _tell_of_chains(course: Course, stage: str, size_before: int) -> None:
    size = course.seat.world_size
    workers = "1 worker" if size == 1 else f"{size} workers"
    sentence = (
        f"{stage} goes on with {workers} instead of {size_before}: its chains begin anew at the "
        "data."
    )
    course.tell(Noticed(code="chains_begun_anew", sentence=sentence))


def non_finite(plan: StagePlan, stage_step: int) -> NonFiniteFailure:
    """Return the failure of a stage whose loss or weights are no numbers any more."""
    return NonFiniteFailure(
        f"The loss or the weights of {plan.name} became NaN or infinite by its step {stage_step}; "
        "lower the learning rate, or set training.clip_norm"
    )


def _tensors(course: Course, trained: Trained | None) -> dict[str, Any]:
    tensors: dict[str, Any] = {NET: course.net.state_dict()}
    if trained is not None:
        tensors["optimizer"] = trained.optimizer.tensors()
        own = trained.objective.own_tensors()
        if own:
            tensors["stage"] = own
    return tensors


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


def _state(course: Course, plan: StagePlan, position: Position) -> dict[str, Any]:
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
