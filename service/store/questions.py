"""Reads of jobs, their course and their telemetry; each is one short transaction."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, Select, func, select, text, union_all

from service.domain.asks import JobFilter
from service.domain.job import JobState
from service.domain.records import (
    Attempt,
    Checkpoint,
    Event,
    Job,
    Measurement,
    Reading,
    Reason,
    Stage,
    Token,
    Waiting,
)
from service.store.engine import database_now, reading
from service.store.rows import (
    TOLD_COLUMNS,
    TOLD_FROM,
    attempt_of,
    checkpoint_of,
    event_of,
    job_of,
    measurement_of,
    stage_of,
    token_of,
    told_of,
)
from service.store.tables import (
    attempts,
    checkpoints,
    events,
    jobs,
    measurements,
    readings,
    stages,
    tokens,
)
from workers.contract.reports import StageKind
from workers.contract.wire import JobId

PRUNED_SHOWN = 200  # of a job's checkpoints that are gone: a job of weeks has had many thousands


class Questions:
    """What can be asked about jobs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _all(self, query: Select[Any]) -> list[Any]:
        with reading(self._engine) as connection:
            return list(connection.execute(query))

    def job(self, job_id: JobId) -> Job | None:
        """The job, or None."""
        return next(map(job_of, self._all(select(jobs).where(jobs.c.id == job_id))), None)

    def job_of_key(self, key: str) -> Job | None:
        """The job that was submitted under this key, or None."""
        return next(map(job_of, self._all(select(jobs).where(jobs.c.key == key))), None)

    def jobs_like(self, part: str, limit: int, project: str | None = None) -> list[Job]:
        """Jobs (of a project) whose id begins, or ends, so, newest first."""
        like = jobs.c.id.startswith(part, autoescape=True)
        like |= jobs.c.id.endswith(part, autoescape=True)
        query = select(jobs).where(like).order_by(jobs.c.seq.desc()).limit(limit)
        if project is not None:
            query = query.where(jobs.c.project == project)
        return list(map(job_of, self._all(query)))

    def jobs(self, wanted: JobFilter) -> list[Job]:
        """Jobs, newest first."""
        tests: list[ColumnElement[bool]] = []
        if wanted.states is not None:
            tests.append(jobs.c.state.in_(sorted(wanted.states)))
        for column, value in (
            (jobs.c.queue, wanted.queue),
            (jobs.c.project, wanted.project),
            (jobs.c.name, wanted.name),
        ):
            if value is not None:
                tests.append(column == value)
        if wanted.before_seq is not None:
            tests.append(jobs.c.seq < wanted.before_seq)
        query = select(jobs).where(*tests).order_by(jobs.c.seq.desc()).limit(wanted.limit)
        return list(map(job_of, self._all(query)))

    def count_jobs(self) -> Mapping[tuple[str, JobState], int]:
        """How many jobs are in each (queue, state)."""
        query = select(jobs.c.queue, jobs.c.state, func.count()).group_by(
            jobs.c.queue, jobs.c.state
        )
        return {(queue, JobState(state)): count for queue, state, count in self._all(query)}

    def waiting(self) -> list[Waiting]:
        """The queued jobs, by queue and reason."""
        query = (
            select(jobs.c.queue, jobs.c.reason, func.count(), func.min(jobs.c.submitted_at))
            .where(text("jobs.state = 'queued'"))
            .group_by(jobs.c.queue, jobs.c.reason)
            .order_by(jobs.c.queue, jobs.c.reason)
        )
        return [Waiting(queue, Reason(reason), *rest) for queue, reason, *rest in self._all(query)]

    def attempt(self, job_id: JobId, number: int) -> Attempt | None:
        """One attempt, or None."""
        query = select(attempts).where(attempts.c.job_id == job_id, attempts.c.number == number)
        return next(map(attempt_of, self._all(query)), None)

    def attempts(self, job_id: JobId) -> list[Attempt]:
        """All attempts of a job, oldest first."""
        query = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.number)
        return list(map(attempt_of, self._all(query)))

    def attempt_of_token(self, sha256: str) -> Attempt | None:
        """The attempt whose gang holds this token."""
        query = select(attempts).where(attempts.c.token_sha256 == sha256)
        return next(map(attempt_of, self._all(query)), None)

    def events(
        self, job_id: JobId, after_id: int, limit: int, reasons: Iterable[str] | None = None
    ) -> list[Event]:
        """The job's events in order; with reasons, only those."""
        query = select(events).where(events.c.job_id == job_id, events.c.id > after_id)
        if reasons is not None:
            query = query.where(events.c.reason.in_(sorted(reasons)))
        return list(map(event_of, self._all(query.order_by(events.c.id).limit(limit))))

    def stages(self, job_id: JobId) -> list[Stage]:
        """The job's stages in order."""
        query = select(stages).where(stages.c.job_id == job_id).order_by(stages.c.index)
        return list(map(stage_of, self._all(query)))

    def latest(self, job_id: JobId) -> Measurement | None:
        """The newest line of the job's curves."""
        return next(iter(self.measurements(job_id, 1)), None)

    def measurements(
        self, job_id: JobId, limit: int, before_id: int | None = None
    ) -> list[Measurement]:
        """The job's curves in order, the newest `limit` lines, or of those before this one."""
        query = select(measurements).where(measurements.c.job_id == job_id)
        if before_id is not None:
            query = query.where(measurements.c.id < before_id)
        rows = self._all(query.order_by(measurements.c.id.desc()).limit(limit))
        return list(map(measurement_of, reversed(rows)))

    def first_line(self, job_id: JobId, stage_index: int) -> Measurement | None:
        """The oldest line of the job's curves that is of this stage, or None."""
        query = (
            select(measurements)
            .where(measurements.c.job_id == job_id)
            .where(measurements.c.progress["stage_index"].as_integer() == stage_index)
            .order_by(measurements.c.id)
            .limit(1)
        )
        return next(map(measurement_of, self._all(query)), None)

    def readings(self, ended_since: datetime) -> list[Reading]:
        """Every job with a curve that trains, or has ended since then; in three questions."""
        shown = union_all(
            select(jobs.c.id).where(text("jobs.state IN ('running', 'stopping')")),
            select(jobs.c.id).where(jobs.c.finished_at >= ended_since),
        ).subquery("shown")
        ids = select(shown.c.id)
        told = self._all(
            select(jobs.c.id, jobs.c.name, jobs.c.queue, jobs.c.workers, *TOLD_COLUMNS)
            .select_from(TOLD_FROM.join(jobs, jobs.c.id == readings.c.job_id))
            .where(jobs.c.id.in_(ids))
            .order_by(jobs.c.seq)
        )
        columns = select(stages.c.job_id, stages.c.index, stages.c.kind)
        kinds = {
            (row.job_id, row.index): StageKind(row.kind)
            for row in self._all(columns.where(stages.c.job_id.in_(ids)))
        }
        newest = (
            select(func.max(checkpoints.c.id))
            .where(checkpoints.c.job_id.in_(ids), ~checkpoints.c.pruned)
            .group_by(checkpoints.c.job_id)
        )
        current = {
            row.job_id: checkpoint_of(row)
            for row in self._all(select(checkpoints).where(checkpoints.c.id.in_(newest)))
        }
        return [_reading(row, kinds, current) for row in told]

    def checkpoints(self, job_id: JobId) -> list[Checkpoint]:
        """The job's checkpoints, the one told last first; of pruned ones the newest."""
        of_job = checkpoints.c.job_id == job_id
        newest = checkpoints.c.id.desc()
        pruned = select(checkpoints.c.id).where(of_job, checkpoints.c.pruned).order_by(newest)
        is_shown = ~checkpoints.c.pruned | checkpoints.c.id.in_(pruned.limit(PRUNED_SHOWN))
        query = select(checkpoints).where(of_job, is_shown).order_by(newest)
        return list(map(checkpoint_of, self._all(query)))

    def current_checkpoint(self, job_id: JobId) -> Checkpoint | None:
        """The job's newest checkpoint that is not pruned, or None."""
        query = select(checkpoints).where(checkpoints.c.job_id == job_id, ~checkpoints.c.pruned)
        rows = self._all(query.order_by(checkpoints.c.id.desc()).limit(1))
        return next(map(checkpoint_of, rows), None)

    def token(self, sha256: str) -> Token | None:
        """The record of a token that is neither expired nor revoked."""
        with reading(self._engine) as connection:
            row = connection.execute(select(tokens).where(tokens.c.sha256 == sha256)).first()
            now = database_now(connection)
        if row is None or row.revoked_at is not None:
            return None
        return token_of(row) if row.expires_at is None or now < row.expires_at else None

    def tokens(self) -> list[Token]:
        """All records, newest first."""
        return list(map(token_of, self._all(select(tokens).order_by(tokens.c.created_at.desc()))))


def _reading(
    row: Row[Any],
    kinds: Mapping[tuple[str, int], StageKind],
    current: Mapping[str, Checkpoint],
) -> Reading:
    told = told_of(row)
    return Reading(
        job_id=row.id,
        name=row.name,
        queue=row.queue,
        workers=row.workers,
        told=told,
        kind=kinds.get((row.id, told.progress.stage_index)),
        checkpoint=current.get(row.id),
    )
