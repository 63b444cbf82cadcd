"""What a bus promises: hints that reach whoever listens when they are sent."""

import threading
from collections.abc import Callable

import pytest

from service.bus.local_bus import LocalBus
from service.control.ports import Bus

DEADLINE_SECONDS = 10.0


@pytest.fixture(params=[LocalBus])
def bus(request: pytest.FixtureRequest) -> Bus:
    make: Callable[[], Bus] = request.param
    return make()


def test_everyone_who_listens_to_the_topic_is_woken(bus: Bus) -> None:
    ears = [threading.Event(), threading.Event()]
    for ear in ears:
        bus.listen("queue", ear.set)
    bus.wake("queue")
    assert all(ear.wait(DEADLINE_SECONDS) for ear in ears)


def test_a_wake_up_between_listening_and_waiting_is_not_lost(bus: Bus) -> None:
    ear = threading.Event()
    bus.listen("queue", ear.set)
    bus.wake("queue")
    assert ear.wait(DEADLINE_SECONDS)


def test_another_topic_wakes_nobody(bus: Bus) -> None:
    other, own = threading.Event(), threading.Event()
    bus.listen("job/1", other.set)
    bus.listen("job/2", own.set)
    bus.wake("job/2")
    assert own.wait(DEADLINE_SECONDS)  # so the wake-up has gone its way
    assert not other.is_set()


def test_a_topic_without_listeners_may_be_woken(bus: Bus) -> None:
    bus.wake("agent/nobody")


def test_who_left_is_not_woken_and_the_others_are(bus: Bus) -> None:
    gone, stays = threading.Event(), threading.Event()
    leave = bus.listen("queue", gone.set)
    bus.listen("queue", stays.set)
    leave()
    bus.wake("queue")
    assert stays.wait(DEADLINE_SECONDS)
    assert not gone.is_set()


def test_a_wake_up_comes_from_any_thread(bus: Bus) -> None:
    ear = threading.Event()
    bus.listen("queue", ear.set)
    waker = threading.Thread(target=bus.wake, args=("queue",))
    waker.start()
    assert ear.wait(DEADLINE_SECONDS)
    waker.join(DEADLINE_SECONDS)
