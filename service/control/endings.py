"""What becomes of a job when one of its attempts has ended: one decision, for everyone who asks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.control.ports import Writes
from service.domain.asks import Why
from service.domain.job import JobMove, JobState
from service.domain.records import Attempt, Job, Reason
from service.domain.retry import Again, AttemptEnd, GiveUp, Hold, decide
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
        return _stopped(job.stop_reason, outcome.message)
    if outcome.result is Result.STOPPED:
        if job.state is not JobState.RUNNING:
            return None  # a lost attempt's late word: the job has gone on without it
        # The gang kept a limit of its own: of its time, or of its patience with our silence.
        is_time = outcome.stop_reason is StopReason.TIME_LIMIT
        reason = StopReason.TIME_LIMIT if is_time else StopReason.UNREACHABLE
        return _stopped(reason, outcome.message)
    return _failed(job, _history(attempts, outcome, now), outcome, jitter)


def _stopped(reason: StopReason, message: str) -> Verdict:
    move = _BY_STOP[reason]
    kept = None if move is JobMove.REQUEUE else reason  # a queued job is not stopping any more
    return Verdict(move, message or f"stopped: {reason}", kept)


def _failed(
    job: Job, history: Sequence[AttemptEnd], outcome: Outcome, jitter: float
) -> Verdict | None:
    verdict = decide(history, job.spec.retries, jitter)
    failure = history[-1].failure
    said = outcome.message or str(failure)
    if job.state is not JobState.RUNNING:  # a lost attempt's late word
        repeats = isinstance(verdict, GiveUp) and job.state is JobState.QUEUED
        return Verdict(JobMove.FAIL, said, None, failure) if repeats else None
    if isinstance(verdict, Again):
        sentence = f"{verdict.sentence}: {said}"
        delay_seconds = verdict.delay_seconds
        return Verdict(JobMove.REQUEUE, sentence, None, failure, delay_seconds=delay_seconds)
    if isinstance(verdict, Hold):
        return Verdict(JobMove.HOLD, f"{verdict.sentence}: {said}", None, verdict.failure)
    return Verdict(JobMove.FAIL, said, None, failure, metrics=outcome.metrics)


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


def _history(attempts: Sequence[Attempt], outcome: Outcome, now: datetime) -> list[AttemptEnd]:
    failure = outcome.failure or FailureKind.WORKER_DIED  # it failed and did not say of what
    earlier = [_end(one, one.failure, now) for one in attempts[:-1] if one.failure is not None]
    return [*earlier, _end(attempts[-1], failure, now)]


def _end(attempt: Attempt, failure: FailureKind, now: datetime) -> AttemptEnd:
    begun_at = attempt.started_at or attempt.reserved_at
    lasted = (attempt.ended_at or now) - begun_at
    return AttemptEnd(failure, lasted.total_seconds(), attempt.made_progress)
