"""How a gang ended, out of how its ranks ended: the first cause, and what came of it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from workers.contract.launch import LaunchSpec
from workers.contract.outcome import (
    CAUSE_LINES_MAX,
    FailureKind,
    FirstCause,
    Outcome,
    Result,
)
from workers.gang.rank import RankEnd
from workers.gang.ray_gang import lost_nodes
from workers.gang.watchdog import Hang

PEER_ERRORS = frozenset({"DistError", "DistBackendError", "DistNetworkError", "DistStoreError"})
"""What torch raises when another rank is gone, mostly."""
PEER_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
"""What collectives say then that have no exception class of their own."""
COLLATERAL_MAX = 20  # kinds of errors that are listed beside the first cause
MEMORY_ADVICE = (
    "; lower training.batch_size, raise training.accumulate, or set "
    "training.activation_checkpointing"
)


def of_ends(
    launch: LaunchSpec, ends: Mapping[int, object], was_oom_kill: bool = False
) -> Outcome | None:
    """The outcome, once it can be told; None while ranks that do well have not all ended.

    Where several failed, a death is the cause of errors, and an error of its own is the cause of
    those in which a rank only lost its peers.

    Args:
        launch: the attempt.
        ends: of the ranks that have ended, by rank.
        was_oom_kill: the kernel ended some process on the first rank's node for want of memory.
    """
    parsed = {rank: _parsed(end) for rank, end in ends.items()}
    bad = {rank: end for rank, end in parsed.items() if _is_bad(end)}
    if bad:
        first = min(bad, key=lambda rank: (_distance(bad[rank]), rank))
        outcome = _outcome(launch, first, bad[first], was_oom_kill)
        if outcome.failure is FailureKind.OUT_OF_MEMORY:
            outcome = outcome.model_copy(update={"message": outcome.message + MEMORY_ADVICE})
        others = [end for rank, end in bad.items() if rank != first]
        assert outcome.cause is not None
        cause = outcome.cause.model_copy(update={"collateral": _grouped(others)})
        return outcome.model_copy(update={"cause": cause})
    if len(parsed) < launch.world_size:
        return None
    end = parsed[0]
    assert isinstance(end, RankEnd)
    return end.outcome


def failed_to_start(phases: Sequence[str], limit_seconds: float) -> Outcome:
    """Not every rank came up in time."""
    missing = ", ".join(
        f"rank {rank} is {phase}" for rank, phase in enumerate(phases) if phase != "joined"
    )
    return Outcome(
        result=Result.FAILED,
        failure=FailureKind.START_TIMEOUT,
        message=f"not all ranks were up within {limit_seconds:.0f} s: {missing}",
    )


def hanging(hang: Hang, stacks: Mapping[int, Sequence[str]]) -> Outcome:
    """Nobody advances; the stacks of all threads tell where they are."""
    lines = [f"rank {rank}: {line}" for rank, own in stacks.items() for line in own]
    return Outcome(
        result=Result.FAILED,
        failure=FailureKind.HANG,
        message=hang.sentence,
        cause=FirstCause(
            rank=hang.rank, exception="Hang", last_lines=tuple(lines[:CAUSE_LINES_MAX])
        ),
    )


def driver_failed(sentence: str) -> Outcome:
    """The driver itself failed."""
    return Outcome(
        result=Result.FAILED,
        failure=FailureKind.WORKER_DIED,
        message=sentence,
        cause=FirstCause(exception="Driver", last_lines=(sentence,)),
    )


def _parsed(end: object) -> RankEnd | RayError:
    if isinstance(end, RayError):
        return end
    return RankEnd.model_validate_json(str(end))


def _is_bad(end: RankEnd | RayError) -> bool:
    return isinstance(end, RayError) or end.failure is not None


def _distance(end: RankEnd | RayError) -> int:
    """How far from the first cause: 0 a death, 1 an error of its own, 2 one of a lost peer."""
    if isinstance(end, RayError):
        return 0
    return 2 if _lost_a_peer(end) else 1


def _lost_a_peer(end: RankEnd) -> bool:
    return end.exception in PEER_ERRORS or any(word in end.message for word in PEER_WORDS)


def _outcome(launch: LaunchSpec, rank: int, end: RankEnd | RayError, was_oom_kill: bool) -> Outcome:
    if isinstance(end, RayError):
        return _died(launch, rank, end, was_oom_kill)
    return Outcome(
        result=Result.FAILED,
        failure=FailureKind.WORKER_DIED if _lost_a_peer(end) else end.failure,
        message=end.message,
        cause=FirstCause(rank=rank, exception=end.exception, last_lines=end.last_lines),
    )


def _died(launch: LaunchSpec, rank: int, error: RayError, was_oom_kill: bool) -> Outcome:
    node = launch.ranks[rank].node_id
    failure, what = FailureKind.WORKER_DIED, _first_sentence(error)
    if node in lost_nodes(launch):
        failure, what = FailureKind.NODE_LOST, f"its node {node} is gone"
    elif isinstance(error, OutOfMemoryError):  # Ray killed it before the kernel would have
        failure = FailureKind.OUT_OF_MEMORY
    elif was_oom_kill and node == launch.ranks[0].node_id:
        failure, what = FailureKind.OUT_OF_MEMORY, "the kernel killed it for want of memory"
    return Outcome(
        result=Result.FAILED,
        failure=failure,
        message=f"rank {rank} died: {what}",
        cause=FirstCause(
            rank=rank,
            exception=type(error).__name__,
            last_lines=tuple(str(error).splitlines()[:CAUSE_LINES_MAX]),
        ),
    )


def _first_sentence(error: RayError) -> str:
    """Ray's own words are a page; the one line that says what happened is enough here."""
    text = str(error)
    if isinstance(error, RayActorError):
        match = re.search(r"(?:Worker exit|exit) detail: ([^\n]*?\.)(?:\s|$)", text)
        if match:
            return match[1]
    return text.splitlines()[0] if text else type(error).__name__


def _grouped(ends: Sequence[RankEnd | RayError]) -> tuple[str, ...]:
    """The errors by their text without its numbers: 63 ranks that lost one peer give one line."""
    texts = [
        f"{type(end).__name__}" if isinstance(end, RayError) else f"{end.exception}: {end.message}"
        for end in ends
    ]
    counted = Counter(re.sub(r"\d+", "#", text.splitlines()[0]) for text in texts)
    return tuple(
        f"{count} x {text}" if count > 1 else text
        for text, count in counted.most_common(COLLATERAL_MAX)
    )
