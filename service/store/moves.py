"""Writes that move jobs and attempts: compare, set, and log, in the transaction that is open."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, literal, null, select, update
from sqlalchemy.exc import IntegrityError

from service.domain.asks import NewJob, Why
from service.domain.errors import Conflict, Stale
from service.domain.job import (
    FINAL_JOB_STATES,
    AttemptMove,
    AttemptState,
    JobMove,
    JobState,
    attempt_after,
    job_after,
)
from service.domain.records import Attempt, Job, RankShare, Reason
from service.store.engine import database_now
from service.store.rows import attempt_of, job_of, spec_json, spec_sha256
from service.store.tables import Instant, attempts, events, jobs
from workers.contract.outcome import FailureKind, Outcome, StopReason
from workers.contract.wire import JobId


class MoveWrites:
    """The part of a transaction that moves things."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def now(self) -> datetime:
        """The database's clock, UTC."""
        return database_now(self._connection)

    def add_job(self, new: NewJob) -> Job:
        """Store a queued job, or return the one that has its key."""
        digest = spec_sha256(new.spec)
        try:
            with self._connection.begin_nested():
                self._insert_job(new, digest)
        except IntegrityError:
            row = self._connection.execute(select(jobs).where(jobs.c.key == new.key)).one()
            if row.spec_sha256 != digest:
                raise Conflict(
                    f"the key {new.key!r} has submitted another job already: {row.id}",
                    remedy="use a new key for a new job",
                ) from None
            return job_of(row)
        why = Why(new.owner, Reason.SUBMITTED)
        self._log(new.id, None, "submit", None, JobState.QUEUED, why)
        return self._job(new.id)

    def _insert_job(self, new: NewJob, digest: str) -> None:
        spec = new.spec
        self._connection.execute(
            insert(jobs).values(
                id=new.id,
                key=new.key,
                spec_sha256=digest,
                spec=spec_json(spec),
                owner=new.owner,
                name=spec.name,
                project=spec.project,
                queue=spec.queue,
                priority=spec.priority,
                workers=spec.resources.workers,
                cpus_per_worker=spec.resources.cpus_per_worker,
                gpus_per_worker=spec.resources.gpus_per_worker,
                max_duration_seconds=spec.max_duration,
                state=JobState.QUEUED,
                reason=Reason.SUBMITTED,
                reason_text="",
                attempt=0,
                metrics={},
                submitted_at=self.now(),
            )
        )

    def move_job(
        self,
        job: Job,
        move: JobMove,
        why: Why,
        *,
        stop_reason: StopReason | None = None,
        failure: FailureKind | None = None,
        not_before: datetime | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Job:
        """Move the job if it is as it was seen."""
        goal = job_after(job.state, move)
        changes: dict[str, Any] = {"not_before": not_before}
        if stop_reason is not None:
            changes["stop_reason"] = stop_reason
        elif goal is JobState.QUEUED:
            changes["stop_reason"] = None
        if failure is not None:
            changes["failure"] = failure
        if metrics is not None:
            changes["metrics"] = dict(metrics)
        if goal in FINAL_JOB_STATES:
            changes["finished_at"] = self.now()
        self._set_job(job, goal, why, changes)
        self._log(job.id, None, move, job.state, goal, why)
        return self._job(job.id)

    def reserve(self, job: Job, agent: str, ranks: Sequence[RankShare], why: Why) -> Attempt:
        """Grant the next attempt."""
        goal = job_after(job.state, JobMove.RESERVE)
        now, number = self.now(), job.attempt + 1
        changes = {"attempt": number, "started_at": job.started_at or now, "not_before": None}
        self._set_job(job, goal, why, changes)
        self._connection.execute(
            insert(attempts).values(
                job_id=job.id,
                number=number,
                state=AttemptState.RESERVED,
                agent=agent,
                ranks=[asdict(rank) for rank in ranks],
                held=0,
                reason=why.reason,
                reason_text=why.message,
                made_progress=False,
                reserved_at=now,
            )
        )
        self._log(job.id, None, JobMove.RESERVE, job.state, goal, why)
        self._log(job.id, number, JobMove.RESERVE, None, AttemptState.RESERVED, why)
        return self._attempt(job.id, number)

    def move_attempt(
        self,
        attempt: Attempt,
        move: AttemptMove,
        why: Why,
        *,
        token_sha256: str | None = None,
        stop_reason: StopReason | None = None,
        outcome: Outcome | None = None,
        failure: FailureKind | None = None,
    ) -> Attempt:
        """Move the attempt if it is as it was seen."""
        goal = attempt_after(attempt.state, move)
        self._lock(attempt.job_id)
        now = self.now()
        changes: dict[str, Any] = {
            "state": goal,
            "reason": why.reason,
            "reason_text": why.message,
            "token_sha256": token_sha256,
            "stop_reason": stop_reason,
            "failure": failure,
            "outcome": outcome.model_dump(mode="json") if outcome else None,
            "started_at": now if move is AttemptMove.START else None,
            "stop_at": now if move is AttemptMove.STOP else None,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        if outcome is not None or move is AttemptMove.BURY:
            changes["ended_at"] = func.coalesce(attempts.c.ended_at, literal(now, Instant))
        self._set_attempt(attempt, changes)
        self._log(attempt.job_id, attempt.number, move, attempt.state, goal, why)
        return self._attempt(attempt.job_id, attempt.number)

    def note_outcome(self, attempt: Attempt, outcome: Outcome) -> Attempt:
        """Record an outcome where the attempt is stopping already, or lost."""
        self._lock(attempt.job_id)
        changes = {
            "outcome": outcome.model_dump(mode="json"),
            "failure": outcome.failure,
            "ended_at": self.now(),
        }
        self._set_attempt(attempt, changes)
        return self._attempt(attempt.job_id, attempt.number)

    def explain(self, job_id: JobId, reason: Reason, text: str) -> None:
        """Say why a queued job still waits."""
        self._connection.execute(
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
            .values(reason=reason, reason_text=text)
        )

    def notice(self, job_id: JobId, attempt: int | None, actor: str, code: str, text: str) -> None:
        """Write an event that moves nothing."""
        self._connection.execute(
            insert(events).values(
                job_id=job_id,
                attempt=attempt,
                at=self.now(),
                actor=actor,
                move="notice",
                reason=code,
                message=text,
            )
        )

    def _lock(self, job_id: JobId) -> int:
        """Let one writer at a time touch a job and its attempts; return its newest attempt.

        The job's row comes first in every transaction, so that two never wait for each other. On
        SQLite there is one writer anyway.
        """
        newest = select(jobs.c.attempt).where(jobs.c.id == job_id)
        number: int | None = self._connection.scalar(newest.with_for_update(key_share=True))
        if number is None:
            raise Stale(f"there is no job {job_id}")
        return number

    def _set_job(self, job: Job, goal: JobState, why: Why, changes: Mapping[str, Any]) -> None:
        done = self._connection.execute(
            update(jobs)
            .where(jobs.c.id == job.id, jobs.c.attempt == job.attempt, jobs.c.state == job.state)
            .values(state=goal, reason=why.reason, reason_text=why.message, **changes)
        )
        if done.rowcount != 1:
            raise Stale(f"job {job.id} is not {job.state} with attempt {job.attempt} any more")

    def _set_attempt(self, attempt: Attempt, changes: Mapping[str, Any]) -> None:
        row = update(attempts).where(
            attempts.c.job_id == attempt.job_id,
            attempts.c.number == attempt.number,
            attempts.c.state == attempt.state,
        )
        if "outcome" in changes:  # the first last word counts
            row = row.where(attempts.c.outcome.is_(null()))
        if self._connection.execute(row.values(changes)).rowcount != 1:
            raise Stale(f"attempt {attempt.number} of {attempt.job_id} is not as it was seen")

    def _log(
        self,
        job_id: JobId,
        attempt: int | None,
        move: str,
        source: str | None,
        goal: str,
        why: Why,
    ) -> None:
        self._connection.execute(
            insert(events).values(
                job_id=job_id,
                attempt=attempt,
                at=self.now(),
                actor=why.actor,
                move=move,
                source=source,
                goal=goal,
                reason=why.reason,
                message=why.message,
            )
        )

    def _job(self, job_id: JobId) -> Job:
        return job_of(self._connection.execute(select(jobs).where(jobs.c.id == job_id)).one())

    def _attempt(self, job_id: JobId, number: int) -> Attempt:
        return attempt_of(
            self._connection.execute(
                select(attempts).where(attempts.c.job_id == job_id, attempts.c.number == number)
            ).one()
        )
