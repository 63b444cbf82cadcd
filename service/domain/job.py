"""The life of a job and of its attempts, each as one table: what is not in it does not happen.

    job      QUEUED <-> HELD     QUEUED -> RUNNING -> SUCCEEDED | FAILED | CANCELLED | TIMED_OUT
             RUNNING -> QUEUED   RUNNING -> STOPPING -> CANCELLED | TIMED_OUT | HELD | QUEUED
    attempt  RESERVED -> STARTING -> RUNNING -> STOPPING -> GONE       any of them -> LOST -> GONE

A job runs while one of its attempts holds capacity for it. The number of the attempt is the fence:
it grows when a new one is reserved, and what bears an older number is refused from then on.
"""

from collections.abc import Mapping
from enum import StrEnum


class IllegalMove(Exception):
    """There is no such move from that state."""


class JobState(StrEnum):
    """Where a job is; who moves it out, and what a crash leaves behind."""

    QUEUED = "queued"  # in: submit, release, retry. out: the scheduler. A crash leaves it queued.
    HELD = "held"  # in: its owner, or too many failures. out: its owner. Survives everything.
    RUNNING = "running"  # in: the scheduler. out: the gang's outcome, or the reconciler.
    STOPPING = "stopping"  # in: owner or time limit. out: the gang's outcome, or the reconciler.
    SUCCEEDED = "succeeded"  # in: the gang's outcome. Final.
    FAILED = "failed"  # in: an outcome beyond its retry budget. Final.
    CANCELLED = "cancelled"  # in: its owner. Final.
    TIMED_OUT = "timed_out"  # in: its own max_duration. Final.


class JobMove(StrEnum):
    """What can happen to a job."""

    RESERVE = "reserve"  # the scheduler grants an attempt
    HOLD = "hold"  # by its owner, or by the retry rules
    RELEASE = "release"  # by its owner
    STOP = "stop"  # the gang is told to stop; why is in the stop reason
    REQUEUE = "requeue"  # the retry rules, a preemption, or a lost attempt
    SUCCEED = "succeed"  # the gang's outcome
    FAIL = "fail"  # the retry rules
    CANCEL = "cancel"  # its owner, once no gang is left to tell
    TIME_OUT = "time_out"  # the gang's outcome


JOB_MOVES: Mapping[tuple[JobState, JobMove], JobState] = {
    (JobState.QUEUED, JobMove.RESERVE): JobState.RUNNING,
    (JobState.QUEUED, JobMove.HOLD): JobState.HELD,
    (JobState.QUEUED, JobMove.CANCEL): JobState.CANCELLED,
    (JobState.QUEUED, JobMove.SUCCEED): JobState.SUCCEEDED,  # a lost attempt's late word
    (JobState.QUEUED, JobMove.FAIL): JobState.FAILED,  # the same: a failure that repeats
    (JobState.HELD, JobMove.RELEASE): JobState.QUEUED,
    (JobState.HELD, JobMove.CANCEL): JobState.CANCELLED,
    (JobState.HELD, JobMove.SUCCEED): JobState.SUCCEEDED,  # a lost attempt's late word
    (JobState.RUNNING, JobMove.STOP): JobState.STOPPING,
    (JobState.RUNNING, JobMove.REQUEUE): JobState.QUEUED,
    (JobState.RUNNING, JobMove.HOLD): JobState.HELD,  # too many failures
    (JobState.RUNNING, JobMove.SUCCEED): JobState.SUCCEEDED,
    (JobState.RUNNING, JobMove.FAIL): JobState.FAILED,
    (JobState.RUNNING, JobMove.TIME_OUT): JobState.TIMED_OUT,
    (JobState.STOPPING, JobMove.STOP): JobState.STOPPING,  # cancel overrules hold and preempt
    (JobState.STOPPING, JobMove.SUCCEED): JobState.SUCCEEDED,  # it ended before it heard us
    (JobState.STOPPING, JobMove.CANCEL): JobState.CANCELLED,
    (JobState.STOPPING, JobMove.TIME_OUT): JobState.TIMED_OUT,
    (JobState.STOPPING, JobMove.HOLD): JobState.HELD,
    (JobState.STOPPING, JobMove.REQUEUE): JobState.QUEUED,
}


class AttemptState(StrEnum):
    """Where an attempt is. Nodes and quota hang on it until it is GONE, whatever the job says."""

    RESERVED = "reserved"  # in: the scheduler. out: an agent's claim, or the reconciler.
    STARTING = "starting"  # in: the claim. out: the gang's first word. Never launched again.
    RUNNING = "running"  # in: every rank is up. out: its outcome, a stop, or proof of its end.
    STOPPING = "stopping"  # in: a stop order, or its outcome. out: proof that no process is left.
    LOST = "lost"  # in: long silence. Its nodes stay blocked, its job is granted anew elsewhere.
    GONE = "gone"  # in: proof that neither driver nor ranks live. Final; frees the nodes.


class AttemptMove(StrEnum):
    """What can happen to an attempt."""

    CLAIM = "claim"  # an agent takes it, once
    START = "start"  # the gang says that every rank is up
    STOP = "stop"  # a stop order, or its outcome: it is about to end
    LOSE = "lose"  # the reconciler gives it up without proof
    BURY = "bury"  # the agent proves that nothing of it lives


ATTEMPT_MOVES: Mapping[tuple[AttemptState, AttemptMove], AttemptState] = {
    (AttemptState.RESERVED, AttemptMove.CLAIM): AttemptState.STARTING,
    (AttemptState.RESERVED, AttemptMove.LOSE): AttemptState.LOST,
    (AttemptState.RESERVED, AttemptMove.BURY): AttemptState.GONE,  # nobody claimed it
    (AttemptState.STARTING, AttemptMove.START): AttemptState.RUNNING,
    (AttemptState.STARTING, AttemptMove.STOP): AttemptState.STOPPING,
    (AttemptState.STARTING, AttemptMove.LOSE): AttemptState.LOST,
    (AttemptState.STARTING, AttemptMove.BURY): AttemptState.GONE,
    (AttemptState.RUNNING, AttemptMove.STOP): AttemptState.STOPPING,
    (AttemptState.RUNNING, AttemptMove.LOSE): AttemptState.LOST,
    (AttemptState.RUNNING, AttemptMove.BURY): AttemptState.GONE,
    (AttemptState.STOPPING, AttemptMove.LOSE): AttemptState.LOST,
    (AttemptState.STOPPING, AttemptMove.BURY): AttemptState.GONE,
    (AttemptState.LOST, AttemptMove.BURY): AttemptState.GONE,
}

FINAL_JOB_STATES = frozenset(JobState) - {source for source, _ in JOB_MOVES}
OPEN_ATTEMPT_STATES = frozenset(AttemptState) - {AttemptState.LOST, AttemptState.GONE}
"""An attempt that is open stands in the way of the next one; a lost one does not."""


def job_after(state: JobState, move: JobMove) -> JobState:
    """Return the state that `move` leads to; raise IllegalMove where there is none."""
    try:
        return JOB_MOVES[state, move]
    except KeyError:
        raise IllegalMove(f"a job that is {state} can't {move}") from None


def attempt_after(state: AttemptState, move: AttemptMove) -> AttemptState:
    """Return the state that `move` leads to; raise IllegalMove where there is none."""
    try:
        return ATTEMPT_MOVES[state, move]
    except KeyError:
        raise IllegalMove(f"an attempt that is {state} can't {move}") from None
