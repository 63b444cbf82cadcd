"""What a store promises of jobs, on every database."""

from dataclasses import replace
from datetime import UTC, timedelta

import pytest

from service.domain.asks import JobFilter, Why
from service.domain.errors import Conflict, Stale
from service.domain.job import AttemptMove, IllegalMove, JobMove, JobState
from service.domain.records import Reason, Waiting
from service.store.store import Store
from tests.contracts.lives import WHY, Lives, a_spec, job_id, new_job
from tests.contracts.replay import assert_log_replays
from workers.contract.outcome import FailureKind, StopReason

OWNER = Why("user:eva", Reason.OWNER, "I said so")


def test_a_new_job_is_queued_and_reads_back_as_it_was_given(store: Store) -> None:
    spec = a_spec(queue="night", project="vision", priority=7, max_duration="2h", labels={"a": "b"})
    new = replace(new_job(), spec=spec)
    with store.write() as tx:
        before = tx.now()
        job = tx.add_job(new)
        after = tx.now()
    assert store.job(new.id) == job
    assert (job.id, job.key, job.owner, job.spec) == (new.id, new.key, "user:eva", spec)
    assert (job.state, job.reason, job.attempt) == (JobState.QUEUED, Reason.SUBMITTED, 0)
    assert before <= job.submitted_at <= after
    assert job.submitted_at.tzinfo is UTC
    assert (job.started_at, job.finished_at, job.not_before) == (None, None, None)
    assert (job.stop_reason, job.failure, job.metrics) == (None, None, {})
    [event] = store.events(job.id, 0, 10)
    assert (event.actor, event.move, event.source, event.goal) == (
        "user:eva",
        "submit",
        None,
        "queued",
    )


def test_a_repeated_key_with_the_same_spec_gives_the_first_job_and_writes_nothing(
    store: Store,
) -> None:
    with store.write() as tx:
        first = tx.add_job(new_job(1, key="again"))
        # The same in other words: a default is written out.
        second = tx.add_job(new_job(2, key="again", queue="default"))
    assert second == first
    assert store.job_of_key("again") == first
    assert len(store.events(first.id, 0, 10)) == 1
    assert store.job(job_id(2)) is None


def test_a_repeated_key_with_another_spec_is_a_conflict_that_names_the_job(store: Store) -> None:
    with store.write() as tx:
        first = tx.add_job(new_job(1, key="again"))
    with pytest.raises(Conflict, match=first.id), store.write() as tx:
        tx.add_job(new_job(2, key="again", seed=9))


def test_the_transaction_goes_on_after_a_repeated_key(store: Store) -> None:
    with store.write() as tx:
        tx.add_job(new_job(1, key="again"))
    with store.write() as tx:
        tx.add_job(new_job(2, key="again"))
        tx.add_job(new_job(3))
    assert store.job(job_id(3)) is not None


def test_an_unknown_job_attempt_or_key_is_none(store: Store) -> None:
    assert store.job(job_id(1)) is None
    assert store.job_of_key("key-1") is None
    assert store.attempt(job_id(1), 1) is None
    assert store.attempts(job_id(1)) == []
    assert store.events(job_id(1), 0, 10) == []


def test_nothing_of_a_block_that_raises_is_kept(store: Store) -> None:
    def fail() -> None:
        with store.write() as tx:
            tx.add_job(new_job())
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert store.job(job_id(1)) is None


def test_a_move_that_saw_another_state_is_stale_and_its_block_leaves_no_trace(
    store: Store, lives: Lives
) -> None:
    seen = lives.queued()
    held = lives.move_job(seen, JobMove.HOLD)

    def too_late() -> None:
        with store.write() as tx:
            tx.notice(seen.id, None, "user:eva", "lost_with_its_block", "...")
            tx.move_job(seen, JobMove.CANCEL, OWNER)

    with pytest.raises(Stale):
        too_late()
    assert lives.job(seen) == held
    assert [event.move for event in store.events(seen.id, 0, 10)] == ["submit", "hold"]


def test_a_move_that_saw_another_attempt_is_stale_though_the_state_is_the_same(
    lives: Lives,
) -> None:
    seen = lives.queued()
    _, attempt = lives.reserve(seen)
    lives.move(attempt, AttemptMove.BURY)
    now = lives.move_job(lives.job(seen), JobMove.REQUEUE)
    assert (now.state, now.attempt) == (seen.state, seen.attempt + 1)
    with pytest.raises(Stale):
        lives.move_job(seen, JobMove.CANCEL)


def test_a_move_that_is_not_in_the_table_is_illegal(lives: Lives) -> None:
    job = lives.queued()
    with pytest.raises(IllegalMove):
        lives.move_job(job, JobMove.RELEASE)
    assert lives.job(job) == job


def test_a_move_records_why_and_what_it_was_given(store: Store, lives: Lives) -> None:
    job, _ = lives.running()
    not_before = job.submitted_at + timedelta(seconds=90, microseconds=1)
    with store.write() as tx:
        job = tx.move_job(
            job, JobMove.REQUEUE, OWNER, failure=FailureKind.STORAGE, not_before=not_before
        )
    assert (job.reason, job.reason_text) == (OWNER.reason, OWNER.message)
    assert (job.failure, job.not_before) == (FailureKind.STORAGE, not_before)
    assert job.finished_at is None
    event = store.events(job.id, 0, 100)[-1]
    assert (event.actor, event.reason, event.message) == (OWNER.actor, "owner", OWNER.message)
    assert (event.source, event.goal) == ("running", "queued")


def test_a_queued_job_has_no_stop_reason_and_a_final_one_keeps_it(lives: Lives) -> None:
    job, _ = lives.running()
    job = lives.move_job(job, JobMove.STOP, stop_reason=StopReason.PREEMPT)
    assert job.stop_reason is StopReason.PREEMPT
    job = lives.move_job(job, JobMove.REQUEUE)
    assert job.stop_reason is None

    other, _ = lives.running()
    other = lives.move_job(other, JobMove.STOP, stop_reason=StopReason.HOLD)
    other = lives.move_job(other, JobMove.HOLD)
    assert other.stop_reason is StopReason.HOLD
    assert lives.move_job(other, JobMove.RELEASE).stop_reason is None


def test_a_final_move_sets_the_end_and_the_metrics(lives: Lives) -> None:
    job, _ = lives.running()
    job = lives.move_job(job, JobMove.SUCCEED, metrics={"test_error": 1.5})
    assert job.is_final
    assert job.finished_at is not None
    assert job.finished_at >= job.submitted_at
    assert job.metrics == {"test_error": 1.5}


def test_metrics_that_are_not_finite_and_text_with_a_nul_are_kept(
    store: Store, lives: Lives
) -> None:
    job, _ = lives.running()
    why = Why("gang", Reason.OUTCOME, "bytes \0 of a crash")
    with store.write() as tx:
        job = tx.move_job(job, JobMove.FAIL, why, metrics={"loss": float("inf")})
    assert lives.job(job).metrics == {"loss": float("inf")}
    assert "\0" not in job.reason_text
    assert job.reason_text.startswith("bytes ")
    assert store.events(job.id, 0, 100)[-1].message == job.reason_text


def test_an_explanation_writes_no_event_and_only_to_queued_jobs(store: Store, lives: Lives) -> None:
    waiting, held = lives.queued(), lives.move_job(lives.queued(), JobMove.HOLD)
    with store.write() as tx:
        for job in (waiting, held):
            tx.explain(job.id, Reason.NO_CAPACITY, "7 of 8 GPUs are used")
        tx.explain(job_id(99), Reason.NO_CAPACITY, "for nobody")
    explained = lives.job(waiting)
    assert (explained.reason, explained.reason_text) == (Reason.NO_CAPACITY, "7 of 8 GPUs are used")
    assert lives.job(held) == held
    assert len(store.events(waiting.id, 0, 10)) == 1


def test_an_explanation_does_not_make_a_move_stale(lives: Lives, store: Store) -> None:
    seen = lives.queued()
    with store.write() as tx:
        tx.explain(seen.id, Reason.BEHIND, "behind another")
    assert lives.move_job(seen, JobMove.HOLD).state is JobState.HELD


def test_a_notice_is_an_event_that_moves_nothing(store: Store, lives: Lives) -> None:
    job = lives.queued()
    with store.write() as tx:
        tx.notice(job.id, 3, "gang", "vanishing_gradient", "layer 1 stands still")
    event = store.events(job.id, 0, 10)[-1]
    assert (event.move, event.attempt, event.source, event.goal) == ("notice", 3, None, None)
    assert (event.reason, event.message) == ("vanishing_gradient", "layer 1 stands still")
    assert lives.job(job) == job


def test_events_come_in_pages_in_order_and_of_one_job_only(store: Store, lives: Lives) -> None:
    job, other = lives.queued(), lives.queued()
    with store.write() as tx:
        for number in range(5):
            tx.notice(job.id, None, "gang", "count", str(number))
            tx.notice(other.id, None, "gang", "count", "other")
    first = store.events(job.id, 0, 3)
    rest = store.events(job.id, first[-1].id, 100)
    assert [event.message for event in first + rest] == ["", "0", "1", "2", "3", "4"]
    assert sorted({event.id for event in first + rest}) == [event.id for event in first + rest]
    assert store.events(job.id, 0, 100, {"count", "x"}) == [*first[1:], *rest]
    assert store.events(job.id, 0, 100, set()) == []


def test_jobs_are_listed_newest_first_by_state_queue_project_and_name(
    store: Store, lives: Lives
) -> None:
    a = lives.queued()
    b = lives.queued(queue="night", project="vision")
    c = lives.move_job(lives.queued(name="other"), JobMove.HOLD)
    assert store.jobs(JobFilter()) == [c, b, a]
    assert store.jobs(JobFilter(states=frozenset({JobState.QUEUED}))) == [b, a]
    assert store.jobs(JobFilter(states=frozenset())) == []
    assert store.jobs(JobFilter(queue="night")) == [b]
    assert store.jobs(JobFilter(project="vision", queue="default")) == []
    assert store.jobs(JobFilter(name="other")) == [c]
    assert store.jobs(JobFilter(limit=2)) == [c, b]
    assert store.jobs(JobFilter(before_seq=b.seq)) == [a]


def test_a_job_is_found_by_the_beginning_or_the_end_of_its_id(store: Store, lives: Lives) -> None:
    first, second = lives.queued(), lives.queued()
    assert store.jobs_like(first.id[:8], 10) == [second, first]
    assert store.jobs_like(first.id[:8], 1) == [second]
    assert store.jobs_like(first.id[-4:], 10) == [first]
    assert store.jobs_like(first.id[:8], 10, first.spec.project) == [second, first]
    assert store.jobs_like(first.id[:8], 10, "another") == []
    assert store.jobs_like("%", 10) == []  # taken literally
    assert store.jobs_like("_" * 36, 10) == []


def test_jobs_are_counted_by_queue_and_state(store: Store, lives: Lives) -> None:
    assert store.count_jobs() == {}
    lives.queued()
    lives.queued()
    lives.queued(queue="night")
    lives.move_job(lives.queued(), JobMove.HOLD)
    assert store.count_jobs() == {
        ("default", JobState.QUEUED): 2,
        ("default", JobState.HELD): 1,
        ("night", JobState.QUEUED): 1,
    }


def test_waiting_jobs_are_counted_by_queue_and_reason_with_the_oldest(
    store: Store, lives: Lives
) -> None:
    assert store.waiting() == []
    oldest, second, third = lives.queued(), lives.queued(), lives.queued(queue="night")
    lives.running()
    with store.write() as tx:
        for job in (oldest, second, third):
            tx.explain(job.id, Reason.NO_NODES, "none is known")
    assert store.waiting() == [
        Waiting("default", Reason.NO_NODES, 2, oldest.submitted_at),
        Waiting("night", Reason.NO_NODES, 1, third.submitted_at),
    ]


def test_the_event_log_replays_to_the_rows(store: Store, lives: Lives) -> None:
    job, _ = lives.requeued(FailureKind.HANG)
    assert_log_replays(store, job)
    job, second = lives.reserve(job)
    second = lives.move(second, AttemptMove.CLAIM, AttemptMove.LOSE)
    with store.write() as tx:
        tx.notice(job.id, 2, "gang", "note", "moves nothing")
        tx.move_job(job, JobMove.STOP, WHY, stop_reason=StopReason.CANCEL)
    assert_log_replays(store, job)
    lives.move_job(lives.job(job), JobMove.CANCEL)
    lives.move(second, AttemptMove.BURY)
    assert_log_replays(store, job)
    assert lives.job(job).state is JobState.CANCELLED
