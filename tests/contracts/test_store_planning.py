"""What a store promises of the planner's snapshot and of leadership, on every database."""

import time
from datetime import timedelta

import pytest

from service.domain.asks import Leadership
from service.domain.errors import NotLeader
from service.domain.job import AttemptMove, JobMove, JobState
from service.planner.snapshot import Node, Share
from service.store.store import LEADER, Store
from tests.clock import ManualClock
from tests.contracts.lives import RANKS, Lives
from workers.contract.outcome import FailureKind, StopReason

LIVES = 1000.0  # a lease that outlives the test
IS_OVER = 0.0  # a lease that is over at once
DEADLINE_SECONDS = 30.0
SHARES = (Share("n1", 2, 1), Share("n2", 2, 1))


def test_an_empty_world(store: Store) -> None:
    world = store.snapshot()
    assert (world.nodes, world.running, world.pending) == ((), (), ())


def test_the_snapshot_has_the_nodes_of_agents_that_speak(store: Store, lives: Lives) -> None:
    lives.agent("b")
    lives.agent("a")
    with store.write() as tx:
        tx.set_agent_silent("b")
    assert store.snapshot().nodes == (Node("n1", "a", 4, 1), Node("n2", "a", 8, 2))
    lives.agent("b")
    assert [node.agent for node in store.snapshot().nodes] == ["a", "a", "b", "b"]


def test_the_snapshots_clock_is_the_databases(store: Store) -> None:
    before, world, after = store.now(), store.snapshot(), store.now()
    epoch_ms = before.timestamp() * 1000
    assert epoch_ms - 1 <= world.now_ms <= after.timestamp() * 1000 + 1


def test_a_queued_job_is_pending_with_what_the_planner_asks(store: Store, lives: Lives) -> None:
    job = lives.queued(
        queue="night",
        project="vision",
        priority=7,
        resources={"workers": 2, "cpus_per_worker": 3, "gpus_per_worker": 1},
    )
    [pending] = store.snapshot().pending
    assert (pending.job_id, pending.seq, pending.attempt) == (job.id, job.seq, 0)
    assert (pending.queue, pending.tenant, pending.priority) == ("night", "vision", 7)
    assert (pending.workers, pending.cpus_per_worker, pending.gpus_per_worker) == (2, 3, 1)
    assert pending.submitted_at_ms == int(job.submitted_at.timestamp() * 1000)
    assert (pending.not_before_ms, pending.avoid_nodes) == (None, frozenset())


def test_only_queued_jobs_are_pending_in_the_order_of_submission(
    store: Store, lives: Lives
) -> None:
    first = lives.queued()
    lives.move_job(lives.queued(), JobMove.HOLD)
    lives.move_job(lives.queued(), JobMove.CANCEL)
    lives.running()
    last = lives.queued(priority=9)
    assert [one.job_id for one in store.snapshot().pending] == [first.id, last.id]


def test_a_queued_job_whose_last_attempt_is_open_is_draining(store: Store, lives: Lives) -> None:
    job, attempt = lives.running()
    attempt = lives.move(attempt, AttemptMove.STOP)
    lives.move_job(job, JobMove.REQUEUE)
    [pending] = store.snapshot().pending
    assert (pending.attempt, pending.is_draining) == (1, True)
    lives.move(attempt, AttemptMove.BURY)
    [pending] = store.snapshot().pending
    assert (pending.attempt, pending.is_draining) == (1, False)


def test_a_queued_job_whose_last_attempt_is_lost_is_pending_and_its_nodes_stay_held(
    store: Store, lives: Lives
) -> None:
    job, attempt = lives.running()
    lives.move(attempt, AttemptMove.LOSE)
    lives.move_job(job, JobMove.REQUEUE)
    world = store.snapshot()
    assert [one.job_id for one in world.pending] == [job.id]
    assert [(one.job_id, one.attempt, one.shares) for one in world.running] == [(job.id, 1, SHARES)]


def test_every_attempt_that_is_not_gone_holds_its_shares(store: Store, lives: Lives) -> None:
    reserved, _ = lives.reserved()
    running, _ = lives.running()
    stopping, attempt = lives.running()
    lives.move(attempt, AttemptMove.STOP, stop_reason=StopReason.CANCEL)
    final, attempt = lives.running()
    lives.move_job(final, JobMove.SUCCEED)  # its processes are not proved gone
    lives.requeued()
    held = store.snapshot().running
    assert {one.job_id for one in held} == {reserved.id, running.id, stopping.id, final.id}
    assert all(one.shares == SHARES for one in held)
    assert len(RANKS) == len(SHARES)


def test_an_attempts_planned_end_counts_from_its_start(store: Store, lives: Lives) -> None:
    _, reserved = lives.reserved(max_duration="90s")
    [held] = store.snapshot().running
    assert held.ends_at_ms is not None
    assert held.ends_at_ms == int(reserved.reserved_at.timestamp() * 1000) + 90_000
    started = lives.move(reserved, AttemptMove.CLAIM, AttemptMove.START)
    [held] = store.snapshot().running
    assert started.started_at is not None
    assert held.ends_at_ms == int(started.started_at.timestamp() * 1000) + 90_000
    lives.running()  # without a limit
    assert [one.ends_at_ms for one in store.snapshot().running][1] is None


@pytest.mark.parametrize(
    ("failure", "nodes"),
    [
        (FailureKind.START_TIMEOUT, {"n1", "n2"}),
        (FailureKind.HANG, {"n1", "n2"}),
        (FailureKind.WORKER_DIED, set()),
        (None, set()),
    ],
)
def test_nodes_where_the_last_attempt_did_not_start_or_hung_are_to_be_avoided(
    store: Store, lives: Lives, failure: FailureKind | None, nodes: set[str]
) -> None:
    lives.requeued(failure)
    [pending] = store.snapshot().pending
    assert pending.avoid_nodes == nodes


def test_a_retrys_delay_is_in_the_snapshot(store: Store, lives: Lives) -> None:
    job, _ = lives.running()
    later = job.submitted_at + timedelta(seconds=30)
    lives.move_job(job, JobMove.REQUEUE, not_before=later)
    _, attempt = lives.running()
    for one in store.attempts(job.id):
        lives.move(one, AttemptMove.BURY)
    [pending] = store.snapshot().pending
    assert pending.not_before_ms == int(later.timestamp() * 1000)
    assert attempt.job_id != pending.job_id


# --- leadership


def lead(store: Store, holder: str, seconds: float = LIVES) -> Leadership:
    term = store.take_lead(LEADER, holder, seconds)
    assert term is not None
    return term


def test_one_holder_leads_while_its_lease_lives(store: Store) -> None:
    term = lead(store, "one")
    assert term == Leadership("one", 1)
    assert store.take_lead(LEADER, "two", LIVES) is None
    assert lead(store, "one") == term  # renewed, the same epoch


def test_another_holder_takes_over_an_expired_lease_in_a_new_epoch(store: Store) -> None:
    first = lead(store, "one", IS_OVER)
    second = lead(store, "two")
    assert second.epoch > first.epoch
    assert store.take_lead(LEADER, "one", LIVES) is None


def test_a_lease_runs_out_by_itself_and_not_before_its_time(
    store: Store, clock: ManualClock, database_url: str
) -> None:
    seconds = 0.3
    asked_at = store.now()
    lead(store, "one", seconds)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (heir := store.take_lead(LEADER, "two", LIVES)) is None:
        assert time.monotonic() < deadline
        if database_url.startswith("sqlite"):
            clock.advance(0.05)
    assert heir.epoch == 2
    assert store.now() >= asked_at + timedelta(seconds=seconds)


def test_a_holder_whose_lease_expired_begins_a_new_epoch_too(store: Store) -> None:
    first = lead(store, "one", IS_OVER)
    again = lead(store, "one")
    assert again.epoch > first.epoch


def test_a_lease_that_is_given_up_is_free_at_once(store: Store) -> None:
    first = lead(store, "one")
    store.drop_lead(LEADER, first)
    assert lead(store, "two").epoch > first.epoch


def test_an_old_leader_can_not_give_up_its_heirs_lease(store: Store) -> None:
    first = lead(store, "one", IS_OVER)
    lead(store, "two")
    store.drop_lead(LEADER, first)
    assert store.take_lead(LEADER, "three", LIVES) is None


def test_a_holder_can_not_give_up_its_new_term_by_its_old_one(store: Store) -> None:
    first = lead(store, "one", IS_OVER)
    lead(store, "one")
    store.drop_lead(LEADER, first)
    assert store.take_lead(LEADER, "two", LIVES) is None


def test_leases_of_other_names_are_apart(store: Store) -> None:
    lead(store, "one")
    assert store.take_lead("another", "two", LIVES) == Leadership("two", 1)


def test_an_old_leaders_write_is_refused_before_anything_of_it_is_done(
    store: Store, lives: Lives
) -> None:
    job = lives.queued()
    old = lead(store, "one", IS_OVER)
    heir = lead(store, "two")
    reached = []

    def write(term: Leadership) -> None:
        with store.write(term) as tx:
            reached.append(term)
            tx.notice(job.id, None, "scheduler", "led", term.holder)

    with pytest.raises(NotLeader, match="one"):
        write(old)
    assert reached == []
    write(heir)
    assert [one.message for one in store.events(job.id, 0, 10)][1:] == ["two"]
    assert lives.job(job).state is JobState.QUEUED


def test_nobodys_term_is_refused(store: Store) -> None:
    with pytest.raises(NotLeader), store.write(Leadership("one", 1)):
        pass


def test_the_lease_runs_on_the_databases_clock(
    store: Store, clock: ManualClock, database_url: str
) -> None:
    lead(store, "one", seconds=9.0)
    clock.advance(10.0)  # SQLite asks this clock; PostgreSQL must not
    heir = store.take_lead(LEADER, "two", LIVES)
    assert (heir is not None) == database_url.startswith("sqlite")
    is_ours = abs(store.now() - clock.now()) < timedelta(seconds=1)
    assert is_ours == database_url.startswith("sqlite")
