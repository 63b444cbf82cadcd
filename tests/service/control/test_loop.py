"""The leader's loop: what is due is done at a wake-up, and no error of a phase ends it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.control.clock import SystemClock
from service.control.loop import POLL_SECONDS_MAX, STUCK_SECONDS, ControlLoop
from service.domain.errors import Unreachable
from service.domain.job import JobState
from tests.service.control.house import House

DEADLINE_SECONDS = 20.0


def a_loop(house: House, holder: str = "server-1") -> ControlLoop:
    return ControlLoop(house.store, house.bus, house.clock, holder, lambda: 0.5, house.meters)


def test_a_turn_elects_plans_and_reconciles(house: House) -> None:
    house.sync()
    job = house.submit()
    loop = a_loop(house)
    loop.turn()
    assert loop.is_leader
    assert house.job(job).state is JobState.RUNNING
    assert house.sample("strata_attempts_total") == 1
    for phase in ("elect", "schedule", "reconcile"):
        assert house.sample("strata_loop_seconds_count", phase=phase) == 1
        assert house.sample("strata_loop_errors_total", phase=phase) == 0


def test_who_does_not_lead_plans_nothing(house: House) -> None:
    a_loop(house, "server-2").turn()
    house.sync()
    job = house.submit()
    loop = a_loop(house)
    loop.turn()
    assert not loop.is_leader
    assert house.job(job).state is JobState.QUEUED


def test_a_phase_that_fails_is_counted_and_the_others_go_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    loop = a_loop(house)
    with monkeypatch.context() as patch:
        patch.setattr(house.store, "snapshot", broken)
        loop.turn()
    assert house.sample("strata_loop_errors_total", phase="schedule") == 1
    assert house.sample("strata_loop_errors_total", phase="elect") == 0
    assert house.sample("strata_loop_seconds_count", phase="reconcile") == 1
    house.sync()
    job = house.submit()
    loop.turn()
    assert house.job(job).state is JobState.RUNNING


def test_who_was_replaced_stops_leading_and_counts_no_error(house: House) -> None:
    house.sync()
    loop = a_loop(house)
    loop.turn()
    house.clock.advance(1)
    term = loop._elector.term
    assert term is not None
    house.store.drop_lead("control", term)
    assert house.store.take_lead("control", "server-2", 9.0) is not None
    house.submit()
    loop.turn()
    assert not loop.is_leader
    assert house.sample("strata_loop_errors_total", phase="schedule") == 0


def test_while_the_database_is_away_the_pauses_grow_and_then_shrink_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unreachable("the database does not answer")

    loop = a_loop(house)
    pauses = []
    with monkeypatch.context() as patch:
        patch.setattr(house.store, "take_lead", away)
        for _ in range(6):
            house.clock.advance(5)
            loop.turn()
            pauses.append(loop._pause_seconds)
    assert pauses == [2.0, 4.0, 8.0, POLL_SECONDS_MAX, POLL_SECONDS_MAX, POLL_SECONDS_MAX]
    loop.turn()
    assert loop._pause_seconds == 1.0
    assert loop.is_leader


def test_a_loop_that_does_not_turn_is_not_alive(house: House) -> None:
    loop = a_loop(house)
    loop.turn()
    house.clock.advance(STUCK_SECONDS - 1)
    assert loop.is_alive
    house.clock.advance(2)
    assert not loop.is_alive


class Turning:
    """A loop on its own thread, and who was granted something."""

    def __init__(self, storage: Path) -> None:
        self.house = House(storage)
        # It polls so rarely that only a wake-up can explain what happens in time.
        self.loop = ControlLoop(
            self.house.store,
            self.house.bus,
            SystemClock(),
            "server-1",
            lambda: 0.5,
            self.house.meters,
            poll_seconds=10 * DEADLINE_SECONDS,
        )
        self.granted = threading.Event()
        self.house.bus.listen("agent/a", self.granted.set)


@pytest.fixture
def turning(tmp_path: Path) -> Iterator[Turning]:
    turning = Turning(tmp_path)
    turning.house.sync()
    turning.loop.start(lambda: None)
    yield turning
    turning.loop.stop()


def test_a_submit_is_planned_at_its_wake_up_and_not_at_the_next_poll(turning: Turning) -> None:
    turning.house.submit()
    assert turning.granted.wait(DEADLINE_SECONDS)


def test_a_stop_ends_the_thread_and_lets_another_lead_at_once(turning: Turning) -> None:
    turning.house.submit()
    assert turning.granted.wait(DEADLINE_SECONDS)
    for _ in range(2):
        turning.loop.stop()
    assert not turning.loop._thread.is_alive()
    assert not turning.loop.is_leader
    assert turning.house.store.take_lead("control", "server-2", 9.0) is not None
    turning.granted.clear()
    turning.house.submit()
    assert not turning.granted.is_set()


def test_nothing_is_planned_before_the_schema_is_there(tmp_path: Path) -> None:
    turning = Turning(tmp_path)
    turning.house.sync()
    turning.house.submit()
    asked, is_there = threading.Event(), threading.Event()

    def prove() -> None:
        asked.set()
        if not is_there.is_set():
            raise Unreachable("the database has no schema")

    turning.loop.start(prove)
    try:
        for _ in range(2):
            assert asked.wait(DEADLINE_SECONDS)
            asked.clear()
            turning.house.bus.wake("queue")
        assert not turning.granted.is_set()
        assert not turning.loop.is_leader
        assert turning.loop.is_alive
        is_there.set()
        turning.house.bus.wake("queue")
        assert turning.granted.wait(DEADLINE_SECONDS)
    finally:
        turning.loop.stop()
    failed = turning.house.sample("strata_loop_errors_total", phase="schema")
    assert failed is not None
    assert failed >= 2


def test_a_loop_that_never_started_can_be_stopped(house: House) -> None:
    a_loop(house).stop()
