"""Nobody is woken before what he is woken for is committed: he would look, and see nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.service.control.house import House, failed, succeeded
from workers.contract.outcome import FailureKind
from workers.contract.reports import GangStarted


@pytest.fixture
def watched(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """Every wake-up fails within a transaction."""
    write, wake, depth = house.store.write, house.bus.wake, 0

    @contextmanager
    def writing(*words: Any) -> Iterator[Any]:
        nonlocal depth
        depth += 1
        try:
            with write(*words) as tx:
                yield tx
        finally:
            depth -= 1

    def wake_after(topic: str) -> None:
        assert depth == 0, f"{topic} is woken within a transaction"
        wake(topic)

    monkeypatch.setattr(house.store, "write", writing)
    monkeypatch.setattr(house.bus, "wake", wake_after)
    return house


def test_everything_that_moves_a_job_wakes_after_its_commit(watched: House) -> None:
    house = watched
    job = house.running()
    house.report(job, failed(FailureKind.WORKER_DIED))
    job = house.again(job)
    house.jobs.profile(job.id, 3, actor="user:eva")
    house.jobs.hold(job.id, actor="user:eva")
    house.sync(house.absent(job))
    house.jobs.release(job.id, actor="user:eva")
    house.jobs.cancel(job.id, actor="user:eva")
    done = house.running()
    house.report(done, GangStarted(world_size=1), succeeded())
    silent = house.running()
    house.watch(400)
    assert house.job(silent).attempt == 1
    woken = set(house.bus.woken)
    assert {"queue", "agent/a", *(f"job/{one.id}" for one in (job, done, silent))} <= woken
