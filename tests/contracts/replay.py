"""The event log, played through the life-cycle tables: it must end where the rows stand."""

from collections.abc import Iterable

from service.domain.job import (
    AttemptMove,
    AttemptState,
    JobMove,
    JobState,
    attempt_after,
    job_after,
)
from service.domain.records import Event, Job
from service.store.store import Store

EVENTS_MAX = 10_000


def replay(events: Iterable[Event]) -> tuple[JobState, dict[int, AttemptState]]:
    """The states of the job and of its attempts after these events, each move checked."""
    job: JobState | None = None
    attempts: dict[int, AttemptState] = {}
    for event in events:
        if event.move == "notice":
            continue
        if event.attempt is None:
            assert event.source == job
            job = _job_goal(job, event.move)
            assert event.goal == job
        else:
            source = attempts.get(event.attempt)
            assert event.source == source
            attempts[event.attempt] = _attempt_goal(source, event.move)
            assert event.goal == attempts[event.attempt]
    assert job is not None
    return job, attempts


def assert_log_replays(store: Store, job: Job) -> None:
    """The log's last word on the job and on each attempt is what their rows say."""
    now = store.job(job.id)
    assert now is not None
    state, attempts = replay(store.events(job.id, 0, EVENTS_MAX))
    assert state is now.state
    assert attempts == {one.number: one.state for one in store.attempts(job.id)}


def _job_goal(source: JobState | None, move: str) -> JobState:
    if source is None:
        assert move == "submit"
        return JobState.QUEUED
    return job_after(source, JobMove(move))


def _attempt_goal(source: AttemptState | None, move: str) -> AttemptState:
    if source is None:
        assert move == JobMove.RESERVE
        return AttemptState.RESERVED
    return attempt_after(source, AttemptMove(move))
