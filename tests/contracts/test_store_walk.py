"""Hundreds of moves in any order, many of them wrong: rows and events never part."""

import random
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from service.domain.asks import JobFilter
from service.domain.errors import Stale
from service.domain.job import (
    ATTEMPT_MOVES,
    JOB_MOVES,
    AttemptMove,
    AttemptState,
    IllegalMove,
    JobMove,
    JobState,
)
from service.domain.records import Attempt, Job
from service.store.store import Store
from tests.contracts.lives import RANKS, WHY, Lives
from tests.contracts.replay import assert_log_replays
from workers.contract.wire import JobId

NUM_STEPS = 400
NUM_JOBS_AT_ONCE = 4
OLD_VIEW_SHARE = 0.25  # of the moves are made by somebody who looked a while ago
ILLEGAL_SHARE = 0.1  # of the moves are picked without a look at the table
VIEWS_KEPT = 12  # older ones would be of jobs that ended, which nothing moves


class Walk:
    """Somebody who moves at random, and foretells what the store will say to each move."""

    def __init__(self, store: Store, lives: Lives, seed: int) -> None:
        self._store = store
        self._lives = lives
        self._random = random.Random(seed)
        self._jobs = [lives.queued() for _ in range(NUM_JOBS_AT_ONCE)]
        self._views: list[Job | Attempt] = []

    def step(self) -> str:
        """Make one move; return "moved", or the name of the refusal that it met, as foretold."""
        view = self._view()
        self._views = [*self._views, view][-VIEWS_KEPT:]
        if isinstance(view, Job):
            return self._move_job(view)
        return self._move_attempt(view)

    def _view(self) -> Job | Attempt:
        if self._views and self._random.random() < OLD_VIEW_SHARE:
            return self._random.choice(self._views)
        place = self._random.randrange(NUM_JOBS_AT_ONCE)
        job = self._lives.job(self._jobs[place])
        left = [one for one in self._store.attempts(job.id) if one.state is not AttemptState.GONE]
        if job.is_final and not left:
            job = self._jobs[place] = self._lives.queued()
        is_about_an_attempt = left and (job.is_final or self._random.random() < 0.6)
        return self._random.choice(left) if is_about_an_attempt else job

    def _move_job(self, view: Job) -> str:
        legal = [move for source, move in JOB_MOVES if source is view.state]
        move = self._random.choice(list(JobMove) if self._is_careless(legal) else legal)
        now = self._lives.job(view)
        told = foretold(move in legal, (now.state, now.attempt) == (view.state, view.attempt))

        def act() -> None:
            with self._store.write() as tx:
                tx.notice(view.id, None, "walk", "try", move)
                if move is JobMove.RESERVE:
                    tx.reserve(view, "a", RANKS, WHY)
                else:
                    tx.move_job(view, move, WHY)

        self._try(view.id, act, told)
        goal = JOB_MOVES[view.state, move] if told is None else now.state
        assert self._lives.job(view).state is goal
        return told.__name__ if told else "moved"

    def _move_attempt(self, view: Attempt) -> str:
        legal = [move for source, move in ATTEMPT_MOVES if source is view.state]
        move = self._random.choice(list(AttemptMove) if self._is_careless(legal) else legal)
        now = self._lives.attempt(view)
        told = foretold(move in legal, now.state is view.state)

        def act() -> None:
            with self._store.write() as tx:
                tx.notice(view.job_id, view.number, "walk", "try", move)
                tx.move_attempt(view, move, WHY)

        self._try(view.job_id, act, told)
        goal = ATTEMPT_MOVES[view.state, move] if told is None else now.state
        assert self._lives.attempt(view).state is goal
        return told.__name__ if told else "moved"

    def _is_careless(self, legal: list[JobMove] | list[AttemptMove]) -> bool:
        return not legal or self._random.random() < ILLEGAL_SHARE

    def _try(self, job_id: JobId, act: Callable[[], None], told: type[Exception] | None) -> None:
        before = self._store.events(job_id, 0, 10_000)
        with pytest.raises(told) if told else nullcontext():
            act()
        after = self._store.events(job_id, 0, 10_000)
        if told:
            assert after == before
        else:
            assert after[: len(before)] == before
            assert len(after) >= len(before) + 2  # the notice, and the move


def foretold(is_legal: bool, is_as_seen: bool) -> type[Exception] | None:
    if not is_legal:
        return IllegalMove
    return None if is_as_seen else Stale


def test_after_a_random_walk_of_moves_the_events_replay_to_the_rows(
    store: Store, lives: Lives
) -> None:
    walk = Walk(store, lives, seed=1)
    met = Counter(walk.step() for _ in range(NUM_STEPS))
    assert met["moved"] >= NUM_STEPS // 2
    assert met["Stale"] >= 20
    assert met["IllegalMove"] >= 10
    jobs = store.jobs(JobFilter(limit=NUM_STEPS))
    for job in jobs:
        assert_log_replays(store, job)
    moves = {one.move for job in jobs for one in store.events(job.id, 0, 10_000)}
    assert moves >= set(JobMove) | set(AttemptMove)  # nothing was left out
    assert {job.state for job in jobs} >= {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
