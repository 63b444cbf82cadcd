"""Goes on from the newest checkpoint that is whole; every one that is passed over is told of."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from workers.checkpoint.reader import Loaded, load, newest_whole, peek_state
from workers.contract.manifest import CheckpointDamaged
from workers.contract.outcome import StorageFailure
from workers.contract.reports import CheckpointRef, Noticed
from workers.parallel.collectives import from_first
from workers.stages.catalog import StagePlan
from workers.training.ancestor import begin_from
from workers.training.contents import (
    OF_STAGE,
    Trained,
    position_of,
    restore_rank_tensors,
    tensors_of,
)
from workers.training.course import Course
from workers.training.position import Position
from workers.training.saving import conclude


def find(course: Course) -> tuple[CheckpointRef | None, Position]:
    """Return the newest whole checkpoint that the launch names, and where it stands; collective.

    None where there is none, which begins at the beginning.

    Raises:
        StorageFailure: storage can't be read.
    """
    ref, position = _newest(course, course.launch.resume)
    if ref is None and course.recipe.init_from is not None:
        begin_from(course, course.recipe.init_from)
    return ref, position


def newest_of_stage(course: Course, plan: StagePlan) -> tuple[CheckpointRef | None, Position]:
    """Return the newest whole checkpoint of a stage, and where it stands; collective.

    None where there is none. A save that is under way is waited for.

    Raises:
        StorageFailure: storage can't be read, or refused several saves in a row.
    """
    conclude(course, is_last=False)
    refs = [*reversed(course.written), *course.launch.resume]
    return _newest(course, [ref for ref in refs if ref.stage_index == plan.index])


def restore_net(course: Course, ref: CheckpointRef) -> None:
    """Load the net's weights in place; the inputs of its stage are computed with them.

    Raises:
        StorageFailure: storage can't be read, or it was changed since it was found.
    """
    _load(course, ref, tensors_of(course, None))


def restore_stage(course: Course, ref: CheckpointRef, trained: Trained) -> None:
    """Load all that a stage changes in place, the net too: building a stage may change it.

    The generators come last, because building a stage may draw from them.

    Raises:
        StorageFailure: as `restore_net`.
    """
    loaded = _load(course, ref, tensors_of(course, trained))
    size_before: int = loaded.state["world_size"]
    if size_before == course.seat.world_size:
        restore_rank_tensors(course, trained, loaded.rank_tensors)
        return
    # The same order of data, but other random numbers: there are other ranks to draw them.
    trained.tally.restore_mean(loaded.state["position"]["epoch_loss_sum"])
    trained.objective.restore_rank_tensors({})
    if any(name.startswith(OF_STAGE) for name in loaded.rank_tensors):
        _tell_of_chains(course, ref.stage, size_before)


def _newest(course: Course, refs: Sequence[CheckpointRef]) -> tuple[CheckpointRef | None, Position]:
    """The first of rank 0's `refs` that is whole, and where it stands."""
    storage_url = course.launch.storage_url

    def ask() -> tuple[CheckpointRef | None, tuple[str, ...], dict[str, Any]]:
        found, refused = newest_whole(storage_url, refs)
        if found is None:
            return None, refused, {}
        with _unchanged(found):
            return found, refused, peek_state(storage_url, found)

    ref, refused, state = from_first(ask, course.seat)
    instead = "None before it is whole" if ref is None else f"Goes back to {ref.path}"
    for sentence in refused:
        course.tell(Noticed(code="checkpoint_fallback", sentence=f"{sentence} {instead}."))
    return (None, Position()) if ref is None else (ref, position_of(state))


def _load(course: Course, ref: CheckpointRef, tensors: dict[str, Any]) -> Loaded:
    with _unchanged(ref):
        return load(course.launch.storage_url, ref, tensors, course.seat.rank)


@contextmanager
def _unchanged(ref: CheckpointRef) -> Iterator[None]:
    """What was whole a moment ago may be damaged now: the next attempt will pass it over."""
    try:
        yield
    except CheckpointDamaged as error:
        raise StorageFailure(f"{ref.path} was damaged while it was loaded: {error}") from error


def _tell_of_chains(course: Course, stage: str, size_before: int) -> None:
    size = course.seat.world_size
    workers = "1 worker" if size == 1 else f"{size} workers"
    sentence = (
        f"{stage} goes on with {workers} instead of {size_before}: its chains begin anew at the "
        "data."
    )
    course.tell(Noticed(code="chains_begun_anew", sentence=sentence))
