"""What becomes of a job when one of its attempts has ended: one decision, for everyone who asks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.control.ports import Writes
from service.domain.asks import Why
from service.domain.job import JobMove, JobState
from service.domain.records import Attempt, Job, Reason
from service.domain.retry import Again, AttemptEnd, Hold, decide
from workers.contract.outcome import FailureKind, Outcome, Result, StopReason

Jitter = Callable[[], float]
"""Gives a random number in [0, 1)."""

_BY_STOP = {
    StopReason.CANCEL: JobMove.CANCEL,
    StopReason.HOLD: JobMove.HOLD,
    StopReason.TIME_LIMIT: JobMove.TIME_OUT,
    StopReason.PREEMPT: JobMove.REQUEUE,
    StopReason.LOST: JobMove.REQUEUE,
    StopReason.UNREACHABLE: JobMove.REQUEUE,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the job moves."""

    move: JobMove
    sentence: str
    stop_reason: StopReason | None = None
    failure: FailureKind | None = None
    delay_seconds: float = 0.0
    metrics: Mapping[str, float] | None = None


def judge(
    job: Job, attempts: Sequence[Attempt], outcome: Outcome, now: datetime, jitter: float
) -> Verdict | None:
    """Decide after the newest attempt ended so; None: the job stays where it is.

    `attempts` are all of the job's, oldest first; the last one's end is in `outcome`. What its
    owner asked for goes before how the attempt failed, and a success before both.
    """
    if job.is_final:
        return None
    if outcome.result is Result.SUCCEEDED:
        return Verdict(JobMove.SUCCEED, outcome.message, metrics=outcome.metrics)
    if job.state is JobState.STOPPING:
        assert job.stop_reason is not None
        return Verdict(_BY_STOP[job.stop_reason], outcome.message, job.stop_reason)
    if job.state is not JobState.RUNNING:
        return None  # a lost attempt's late word: the job has gone on without it
    if outcome.result is Result.STOPPED:
        return _stopped_by_itself(outcome)
    assert outcome.failure is not None
    verdict = decide(_history(attempts, outcome, now), job.spec.retries, jitter)
    said = outcome.message or str(outcome.failure)
    if isinstance(verdict, Again):
        sentence = f"{verdict.sentence}: {said}"
        return Verdict(
            JobMove.REQUEUE, sentence, None, outcome.failure, delay_seconds=verdict.delay_seconds
        )
    if isinstance(verdict, Hold):
        return Verdict(JobMove.HOLD, f"{verdict.sentence}: {said}", None, verdict.failure)
    return Verdict(JobMove.FAIL, said, None, outcome.failure, metrics=outcome.metrics)


def apply(tx: Writes, job: Job, verdict: Verdict, actor: str) -> Job:
    """Move the job as it was decided."""
    not_before = None
    if verdict.delay_seconds > 0:
        not_before = tx.now() + timedelta(seconds=verdict.delay_seconds)
    reason = Reason.RETRY if verdict.move is JobMove.REQUEUE else Reason.OUTCOME
    return tx.move_job(
        job,
        verdict.move,
        Why(actor, reason, verdict.sentence),
        stop_reason=verdict.stop_reason,
        failure=verdict.failure,
        not_before=not_before,
        metrics=verdict.metrics,
    )


def _stopped_by_itself(outcome: Outcome) -> Verdict:
    """The gang kept a limit of its own; nobody had ordered anything."""
    reason = outcome.stop_reason or StopReason.UNREACHABLE
    move = JobMove.TIME_OUT if reason is StopReason.TIME_LIMIT else JobMove.REQUEUE
    return Verdict(move, outcome.message or f"stopped: {reason}", reason)


def _history(attempts: Sequence[Attempt], outcome: Outcome, now: datetime) -> list[AttemptEnd]:
    assert outcome.failure is not None
    earlier = [_end(one, one.failure, now) for one in attempts[:-1] if one.failure is not None]
    return [*earlier, _end(attempts[-1], outcome.failure, now)]


def _end(attempt: Attempt, failure: FailureKind, now: datetime) -> AttemptEnd:
    begun_at = attempt.started_at or attempt.reserved_at
    lasted = (attempt.ended_at or now) - begun_at
    return AttemptEnd(failure, lasted.total_seconds(), attempt.made_progress)
