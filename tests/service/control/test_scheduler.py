"""One pass of the scheduler: what is still so is committed, and who waits is told why, once."""

import pytest

from service.control.scheduler import Scheduler
from service.domain.errors import NotLeader, Unreachable
from service.domain.job import AttemptState, JobState
from service.domain.records import Job, Reason
from service.planner.snapshot import Snapshot
from service.store.moves import MoveWrites
from tests.service.control.house import House
from workers.contract.wire import JobId


def test_a_start_makes_an_attempt_with_a_node_for_every_rank_and_wakes_the_agent(
    house: House,
) -> None:
    house.sync()
    job = house.submit(resources={"workers": 3, "cpus_per_worker": 2})
    house.bus.woken.clear()
    assert house.schedule() == 1
    attempt = house.attempt(job)
    assert (attempt.number, attempt.state, attempt.agent) == (1, AttemptState.RESERVED, "a")
    assert [(one.rank, one.cpus) for one in attempt.ranks] == [(0, 2), (1, 2), (2, 2)]
    assert house.job(job).reason_text == "3 workers on 2 nodes of a"
    assert house.bus.woken == ["agent/a", f"job/{job.id}"]


def test_who_waits_is_told_why_in_the_job_itself(house: House) -> None:
    job = house.submit()
    house.schedule()
    assert house.job(job).reason is Reason.NO_NODES
    assert "strata agent" in house.job(job).reason_text


def test_the_same_reason_is_written_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(MoveWrites, "explain", lambda _self, *words: told.append(words))
    house.submit()
    for _ in range(3):
        house.schedule()
    assert len(told) == 1


def test_a_reason_that_could_not_be_written_is_written_at_the_next_pass(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unreachable("the database does not answer")

    job = house.submit()
    with monkeypatch.context() as patch:
        patch.setattr(MoveWrites, "explain", away)
        with pytest.raises(Unreachable):
            house.schedule()
    house.schedule()
    assert house.job(job).reason is Reason.NO_NODES


def test_a_job_that_moved_after_the_snapshot_is_left_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.sync()
    gone, stays = house.submit(), house.submit()
    read = house.store.snapshot

    def read_then_cancelled() -> Snapshot:
        found = read()
        house.jobs.cancel(gone.id, actor="user:eva")
        return found

    monkeypatch.setattr(house.store, "snapshot", read_then_cancelled)
    assert house.schedule() == 1
    assert house.job(gone).state is JobState.CANCELLED
    assert house.job(stays).state is JobState.RUNNING
    assert house.store.attempts(gone.id) == []


def test_a_job_that_moves_between_look_and_write_is_dropped_and_the_rest_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.sync()
    gone, stays = house.submit(), house.submit()
    read = house.store.job

    def read_then_cancelled(job_id: JobId) -> Job | None:
        found = read(job_id)
        if job_id == gone.id and found is not None and found.state is JobState.QUEUED:
            monkeypatch.undo()
            house.jobs.cancel(gone.id, actor="user:eva")
        return found

    monkeypatch.setattr(house.store, "job", read_then_cancelled)
    assert house.schedule() == 1
    assert house.store.attempts(gone.id) == []
    assert house.job(stays).state is JobState.RUNNING


def test_a_leader_that_was_replaced_grants_nothing(house: House) -> None:
    old = house.lead()
    house.elector.resign()
    assert house.store.take_lead("control", "server-2", 9.0) is not None
    house.sync()
    job = house.submit()
    with pytest.raises(NotLeader):
        house.scheduler.run(old)
    assert house.job(job).attempt == 0


def test_a_leader_that_froze_with_a_plan_in_hand_fills_no_node_twice(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.sync()
    first = house.submit(resources={"workers": 8})
    old, read = house.lead(), house.store.snapshot

    def read_then_frozen() -> Snapshot:
        """While it thinks, its lease ends and its heir grants the nodes to a more urgent job."""
        found = read()
        monkeypatch.undo()
        house.clock.advance(10)
        heir = house.store.take_lead("control", "server-2", 9.0)
        assert heir is not None
        house.submit(resources={"workers": 8}, priority=9)
        assert Scheduler(house.store, house.bus, house.meters).run(heir) == 1
        return found

    monkeypatch.setattr(house.store, "snapshot", read_then_frozen)
    with pytest.raises(NotLeader):
        house.scheduler.run(old)
    assert house.store.attempts(first.id) == []
