"""What a store promises when two write at the same time, on every database."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pytest

from service.domain.asks import JobFilter, Leadership, Why
from service.domain.errors import Conflict, NotLeader, Stale
from service.domain.job import AttemptMove, AttemptState, JobMove, JobState
from service.domain.records import Attempt, Job, Reason
from service.store.facts import FactWrites
from service.store.store import LEADER, Store
from tests.contracts.lives import FAILED, NODES, RANKS, TOLD_AT, WHY, Lives, new_job, wrote
from tests.contracts.replay import assert_log_replays
from workers.contract.outcome import StopReason

THREADS = 4
CANCELLING_THREADS = 8
OVERLAP_SECONDS = 0.3  # how long we look whether the other one waits; it may be slower, not faster
DEADLINE_SECONDS = 60.0
T = TypeVar("T")


def at_once(act: Callable[[int], T], threads: int = THREADS) -> list[T]:
    """What several threads got that began together."""
    barrier = threading.Barrier(threads)

    def begin(number: int) -> T:
        barrier.wait(DEADLINE_SECONDS)
        return act(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(threads), timeout=DEADLINE_SECONDS))


def is_done_soon(future: Future[T]) -> bool:
    try:
        future.exception(OVERLAP_SECONDS)
    except TimeoutError:
        return False
    return True


def test_submits_of_one_key_and_spec_at_once_give_one_job(store: Store) -> None:
    for turn in range(5):

        def submit(number: int, turn: int = turn) -> str:
            with store.write() as tx:
                return tx.add_job(new_job(10 * turn + number, key=f"turn-{turn}")).id

        assert len(set(at_once(submit))) == 1
    jobs = store.jobs(JobFilter())
    assert len(jobs) == 5
    assert all(len(store.events(job.id, 0, 10)) == 1 for job in jobs)


def test_submits_of_one_key_with_other_specs_at_once_give_one_job_and_conflicts(
    store: Store,
) -> None:
    def submit(number: int) -> str:
        try:
            with store.write() as tx:
                return tx.add_job(new_job(number, key="one", seed=number)).id
        except Conflict:
            return "conflict"

    got = Counter(at_once(submit))
    assert got["conflict"] == THREADS - 1
    assert len(store.jobs(JobFilter())) == 1


def test_one_of_many_reserves_a_job(store: Store, lives: Lives) -> None:
    job = lives.queued()

    def reserve(number: int) -> bool:
        try:
            with store.write() as tx:
                tx.reserve(job, f"agent-{number}", RANKS, WHY)
        except Stale:
            return False
        return True

    assert sum(at_once(reserve)) == 1
    assert len(store.attempts(job.id)) == 1
    assert_log_replays(store, job)


def test_one_of_many_moves_the_watermark(store: Store, lives: Lives) -> None:
    _, attempt = lives.running()

    def hold(number: int) -> bool:
        try:
            with store.write() as tx:
                tx.hold_facts(attempt, number + 1)
        except Stale:
            return False
        return True

    assert sum(at_once(hold)) == 1


def test_one_of_many_leads(store: Store) -> None:
    got = at_once(lambda number: store.take_lead(LEADER, f"server-{number}", 1000.0))
    [term] = [one for one in got if one is not None]
    assert store.take_lead(LEADER, term.holder, 1000.0) == term


def test_an_agents_first_words_at_once_leave_one_agent(store: Store) -> None:
    def speak(number: int) -> bool:
        try:
            with store.write() as tx:
                tx.see_agent("a", "cluster-1", "b1", NODES)
        except Stale:
            return False
        return True

    assert any(at_once(speak))
    assert len(store.agents()) == 1
    assert len(store.nodes()) == len(NODES)


def test_no_fact_slips_in_while_the_next_attempt_is_being_reserved(
    store: Store, lives: Lives
) -> None:
    job, first = lives.running()
    first = lives.move(first, AttemptMove.LOSE)
    job = lives.move_job(job, JobMove.REQUEUE)

    def tell() -> None:
        with store.write() as tx:
            tx.hold_facts(first, 7)

    with ThreadPoolExecutor(1) as pool:
        with store.write() as tx:
            tx.reserve(job, "b", RANKS, WHY)
            told: Future[object] = pool.submit(tell)
            assert not is_done_soon(told)
        assert isinstance(told.exception(DEADLINE_SECONDS), Stale)
    assert lives.attempt(first).held == 0


def test_no_attempt_is_reserved_while_the_last_ones_facts_are_being_taken(
    store: Store, lives: Lives
) -> None:
    job, first = lives.running()
    first = lives.move(first, AttemptMove.LOSE)
    job = lives.move_job(job, JobMove.REQUEUE)
    with ThreadPoolExecutor(1) as pool:
        with store.write() as tx:
            tx.hold_facts(first, 7)
            reserved: Future[object] = pool.submit(lives.reserve, job)
            assert not is_done_soon(reserved)
        assert reserved.exception(DEADLINE_SECONDS) is None
    assert lives.attempt(first).held == 7
    assert lives.job(job).attempt == 2


def end_as_a_gang(store: Store, job: Job, attempt: Attempt) -> None:
    with store.write() as tx:
        tx.hold_facts(attempt, 1)
        tx.move_attempt(attempt, AttemptMove.STOP, WHY, outcome=FAILED)
        tx.move_job(job, JobMove.FAIL, WHY)


def end_as_the_reconciler(store: Store, job: Job, attempt: Attempt) -> None:
    with store.write() as tx:
        tx.move_attempt(attempt, AttemptMove.LOSE, WHY)
        tx.move_job(job, JobMove.REQUEUE, WHY)


@pytest.mark.parametrize("end", [end_as_a_gang, end_as_the_reconciler])
def test_an_owners_stop_and_an_end_never_wait_for_each_other_for_ever(
    store: Store, lives: Lives, end: Callable[[Store, Job, Attempt], None]
) -> None:
    job, attempt = lives.running()
    with ThreadPoolExecutor(1) as pool:
        with store.write() as tx:
            tx.move_job(job, JobMove.STOP, WHY, stop_reason=StopReason.CANCEL)
            ended: Future[object] = pool.submit(end, store, job, attempt)
            assert not is_done_soon(ended)
            tx.move_attempt(attempt, AttemptMove.STOP, WHY, stop_reason=StopReason.CANCEL)
        assert isinstance(ended.exception(DEADLINE_SECONDS), Stale)
    assert lives.job(job).state is JobState.STOPPING
    assert lives.attempt(attempt).state is AttemptState.STOPPING
    assert_log_replays(store, job)


def test_an_heir_waits_for_the_last_write_of_the_leader_before_it(
    store: Store, lives: Lives
) -> None:
    job = lives.queued()
    old = store.take_lead(LEADER, "one", 0.0)  # over at once: it does not know it yet
    assert old is not None

    def take_over() -> Leadership | None:
        return store.take_lead(LEADER, "two", 1000.0)

    with ThreadPoolExecutor(1) as pool:
        with store.write(old) as tx:
            heir: Future[Leadership | None] = pool.submit(take_over)
            tx.reserve(job, "a", RANKS, WHY)
            assert not is_done_soon(heir)
        term = heir.result(DEADLINE_SECONDS)
    assert term is not None
    assert term.epoch == old.epoch + 1
    assert len(store.snapshot().running) == 1
    with pytest.raises(NotLeader), store.write(old):
        pass


@pytest.mark.parametrize("is_submitted_first", [True, False])
def test_a_submit_and_an_unpin_at_once_leave_no_job_without_its_beginning(
    store: Store, lives: Lives, is_submitted_first: bool
) -> None:
    source, _ = lives.running()
    first, second = wrote(source, 1), wrote(source, 2)
    path = first.ref.path
    with store.write() as tx:
        tx.add_checkpoint(source.id, first, TOLD_AT)
        tx.add_checkpoint(source.id, second, TOLD_AT)
        assert tx.pin(source.id, path, pinned=True)
    init = {"source": source.id, "path": path, "manifest_sha256": first.ref.manifest_sha256}

    def submit(tx: FactWrites) -> bool:
        tx.add_job(new_job(2, init_from=init))
        return tx.pin(source.id, path, pinned=True)

    def unpin(tx: FactWrites) -> bool:
        if not tx.pin(source.id, path, pinned=False) or tx.heir(path) is not None:
            raise Conflict("a job begins from it")
        tx.ask_prune(source.id, 1)
        return True

    def alone(act: Callable[[FactWrites], bool]) -> bool:
        with store.write() as tx:
            return act(tx)

    acts = (submit, unpin) if is_submitted_first else (unpin, submit)
    with ThreadPoolExecutor(1) as pool:
        with store.write() as tx:
            assert acts[0](tx)
            later: Future[bool] = pool.submit(alone, acts[1])
            assert not is_done_soon(later)
        if is_submitted_first:
            assert isinstance(later.exception(DEADLINE_SECONDS), Conflict)
        else:
            assert later.result(DEADLINE_SECONDS) is False, "it is on its way out"
    [row] = [row for row in store.checkpoints(source.id) if row.ref.path == path]
    assert (row.pinned, row.prune_asked) == (is_submitted_first, not is_submitted_first)


def test_2000_jobs_are_cancelled_at_once_and_the_database_is_never_locked(store: Store) -> None:
    with store.write() as tx:
        jobs = [tx.add_job(new_job(number)) for number in range(2000)]

    def cancel(thread: int) -> int:
        share = jobs[thread::CANCELLING_THREADS]
        for job in share:
            with store.write() as tx:
                tx.move_job(job, JobMove.CANCEL, Why("user:eva", Reason.OWNER, "cancelled"))
        return len(share)

    assert sum(at_once(cancel, CANCELLING_THREADS)) == 2000
    assert store.count_jobs() == {("default", JobState.CANCELLED): 2000}
