"""What a store promises of attempts, their moves and their fence, on every database."""

from dataclasses import replace
from datetime import UTC

import pytest

from service.domain.asks import Why
from service.domain.errors import Stale
from service.domain.job import AttemptMove, AttemptState, IllegalMove, JobMove, JobState
from service.domain.records import Attempt, Reason
from service.store.store import Store
from tests.contracts.lives import FAILED, RANKS, Lives, job_id
from workers.contract.outcome import FailureKind, FirstCause, Outcome, Result, StopReason

TOKEN = "c" * 64
OUTCOME = Outcome(
    result=Result.FAILED,
    failure=FailureKind.HANG,
    message="nothing advances",
    cause=FirstCause(rank=1, exception="Hang", last_lines=("a\0b", "é")),
    metrics={"loss": float("inf"), "error": 2.5},
    seconds=12.5,
)


def hold(store: Store, attempt: Attempt, up_to: int) -> None:
    with store.write() as tx:
        tx.hold_facts(attempt, up_to)


def test_a_reservation_moves_the_job_and_makes_the_next_attempt(store: Store, lives: Lives) -> None:
    queued = lives.queued()
    job, attempt = lives.reserve(queued)
    assert (job.state, job.attempt, job.reason) == (JobState.RUNNING, 1, Reason.RESERVED)
    assert job.started_at == attempt.reserved_at
    assert store.attempt(job.id, 1) == attempt
    assert (attempt.number, attempt.state, attempt.agent) == (1, AttemptState.RESERVED, "a")
    assert (attempt.ranks, attempt.held, attempt.made_progress) == (RANKS, 0, False)
    assert attempt.reserved_at.tzinfo is UTC
    assert (attempt.token_sha256, attempt.outcome, attempt.failure) == (None, None, None)
    assert (attempt.started_at, attempt.heard_at, attempt.ended_at) == (None, None, None)
    moves = [(one.attempt, one.source, one.goal) for one in store.events(job.id, 0, 10)[1:]]
    assert moves == [(None, "queued", "running"), (1, None, "reserved")]


def test_the_numbers_of_attempts_grow_and_the_job_keeps_its_first_start(
    store: Store, lives: Lives
) -> None:
    job, first = lives.requeued()
    job, second = lives.reserve(job)
    assert (first.number, second.number, job.attempt) == (1, 2, 2)
    assert job.started_at == first.reserved_at
    assert store.attempts(job.id) == [first, second]


def test_a_job_is_reserved_only_as_it_was_seen(store: Store, lives: Lives) -> None:
    seen = lives.queued()
    lives.reserve(seen)
    with pytest.raises(Stale):
        lives.reserve(seen)
    with pytest.raises(IllegalMove):
        lives.reserve(lives.job(seen))
    assert len(store.attempts(seen.id)) == 1


def test_an_attempt_is_claimed_once(store: Store, lives: Lives) -> None:
    _, reserved = lives.reserved()
    claimed = lives.move(reserved, AttemptMove.CLAIM, token_sha256=TOKEN)
    assert (claimed.state, claimed.token_sha256) == (AttemptState.STARTING, TOKEN)
    with pytest.raises(Stale):
        lives.move(reserved, AttemptMove.CLAIM, token_sha256="d" * 64)
    assert lives.attempt(reserved) == claimed
    assert store.attempt_of_token(TOKEN) == claimed
    assert store.attempt_of_token("d" * 64) is None


def test_each_move_of_an_attempt_sets_its_own_instant(lives: Lives) -> None:
    _, attempt = lives.running()
    assert attempt.started_at is not None
    assert attempt.started_at >= attempt.reserved_at
    assert attempt.stop_at is attempt.ended_at is None
    attempt = lives.move(attempt, AttemptMove.STOP, stop_reason=StopReason.CANCEL)
    assert attempt.stop_at is not None
    assert attempt.ended_at is None
    assert attempt.stop_reason is StopReason.CANCEL
    buried = lives.move(attempt, AttemptMove.BURY)
    assert buried.ended_at is not None
    assert (buried.started_at, buried.stop_at) == (attempt.started_at, attempt.stop_at)
    assert buried.stop_reason is StopReason.CANCEL


def test_an_outcome_ends_an_attempt_and_its_burial_does_not_end_it_again(
    lives: Lives, store: Store
) -> None:
    _, attempt = lives.running()
    ended = lives.move(attempt, AttemptMove.STOP, outcome=OUTCOME, failure=FailureKind.HANG)
    assert ended.outcome == OUTCOME
    assert (ended.failure, ended.state) == (FailureKind.HANG, AttemptState.STOPPING)
    assert ended.ended_at is not None
    buried = lives.move(ended, AttemptMove.BURY)
    assert (buried.ended_at, buried.outcome) == (ended.ended_at, OUTCOME)


def test_an_outcome_can_be_noted_on_a_lost_attempt(lives: Lives, store: Store) -> None:
    _, attempt = lives.running()
    lost = lives.move(attempt, AttemptMove.LOSE, failure=FailureKind.LOST)
    assert lost.ended_at is None
    events = len(store.events(lost.job_id, 0, 100))
    with store.write() as tx:
        noted = tx.note_outcome(lost, FAILED)
    assert (noted.state, noted.outcome) == (AttemptState.LOST, FAILED)
    assert (noted.failure, noted.ended_at is None) == (FailureKind.HANG, False)
    assert len(store.events(lost.job_id, 0, 100)) == events
    buried = lives.move(lost, AttemptMove.BURY)  # by somebody who had not heard of its outcome
    assert (buried.ended_at, buried.outcome) == (noted.ended_at, FAILED)


def test_the_first_outcome_counts_and_who_brings_another_is_stale(
    store: Store, lives: Lives
) -> None:
    _, running = lives.running()
    seen = lives.move(running, AttemptMove.STOP, stop_reason=StopReason.HOLD)

    def note(outcome: Outcome) -> None:
        with store.write() as tx:
            tx.note_outcome(seen, outcome)

    note(FAILED)
    with pytest.raises(Stale):
        note(OUTCOME)
    with pytest.raises(Stale):
        lives.move(seen, AttemptMove.BURY, outcome=OUTCOME)
    assert lives.attempt(seen).outcome == FAILED
    assert lives.attempt(seen).state is AttemptState.STOPPING


def test_a_move_of_an_attempt_that_saw_another_state_is_stale(store: Store, lives: Lives) -> None:
    _, seen = lives.reserved()
    now = lives.move(seen, AttemptMove.CLAIM)

    def too_late() -> None:
        with store.write() as tx:
            tx.notice(seen.job_id, 1, "gang", "lost_with_its_block", "...")
            tx.move_attempt(seen, AttemptMove.BURY, Why("reconciler", Reason.SILENT))

    with pytest.raises(Stale):
        too_late()
    assert lives.attempt(seen) == now
    assert [one.move for one in store.events(seen.job_id, 0, 100)][-1] == "claim"


def test_a_move_of_an_attempt_that_is_not_in_the_table_is_illegal(lives: Lives) -> None:
    _, attempt = lives.reserved()
    with pytest.raises(IllegalMove):
        lives.move(attempt, AttemptMove.START)


def test_held_facts_are_a_watermark_that_one_writer_moves(store: Store, lives: Lives) -> None:
    _, seen = lives.running()
    hold(store, seen, 3)
    now = lives.attempt(seen)
    assert now.held == 3
    assert now.heard_at is not None
    with pytest.raises(Stale):  # the same facts, told twice at the same time
        hold(store, seen, 3)
    hold(store, now, 3)  # a heartbeat brings nothing new
    hold(store, now, 9)
    assert lives.attempt(seen).held == 9


def test_facts_of_an_attempt_whose_successor_is_reserved_are_stale_and_leave_no_trace(
    store: Store, lives: Lives
) -> None:
    job, first = lives.running()
    first = lives.move(first, AttemptMove.LOSE)
    job = lives.move_job(job, JobMove.REQUEUE)
    hold(store, first, 1)  # lost, but nobody has taken over: its late word counts
    first = lives.attempt(first)
    assert first.held == 1
    lives.reserve(job)

    def too_late() -> None:
        with store.write() as tx:
            tx.mark_progress(job.id, 1)
            tx.hold_facts(first, 2)

    with pytest.raises(Stale):
        too_late()
    assert lives.attempt(first) == first


def test_facts_of_an_attempt_that_is_gone_are_stale(store: Store, lives: Lives) -> None:
    _, attempt = lives.running()
    gone = lives.move(attempt, AttemptMove.BURY)
    with pytest.raises(Stale):
        hold(store, gone, 1)


def test_facts_of_an_attempt_that_never_was_are_stale(store: Store, lives: Lives) -> None:
    _, attempt = lives.running()
    for unknown in (
        replace(attempt, number=2),
        replace(attempt, job_id=job_id(77)),
    ):
        with pytest.raises(Stale):
            hold(store, unknown, 1)


def test_facts_are_taken_though_the_attempt_has_moved_within_its_life(
    store: Store, lives: Lives
) -> None:
    _, running = lives.running()
    lives.move(running, AttemptMove.STOP, stop_reason=StopReason.HOLD)
    hold(store, running, 4)
    assert lives.attempt(running).held == 4


def test_progress_is_marked_on_the_attempt_that_made_it(store: Store, lives: Lives) -> None:
    job, first = lives.requeued()
    _, second = lives.reserve(job)
    with store.write() as tx:
        tx.mark_progress(job.id, 2)
    assert lives.attempt(second).made_progress
    assert not lives.attempt(first).made_progress


def test_attempts_not_gone_are_found_by_agent_oldest_first(store: Store, lives: Lives) -> None:
    _, first = lives.running("a")
    _, lost = lives.running("a")
    lost = lives.move(lost, AttemptMove.LOSE)
    lives.requeued()
    _, other = lives.reserved("b")
    assert store.attempts_of_agent("a") == [first, lost]
    assert store.attempts_of_agent("b") == [other]
    assert store.attempts_of_agent("nobody") == []
    assert sorted(store.attempts_not_gone(), key=lambda one: one.reserved_at) == [
        first,
        lost,
        other,
    ]


def test_what_is_not_gone_is_held_by_its_jobs_queue(store: Store, lives: Lives) -> None:
    _, here = lives.running()
    _, there = lives.running(queue="night")
    lives.requeued()
    assert sorted(store.holdings(), key=lambda one: one[0]) == [("default", here), ("night", there)]
