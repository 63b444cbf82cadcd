"""What every bus promises: whoever listens is woken, also at another server, and never has to be.

Two servers share a bus: one object inside a process, one object each through Redis.
"""

import threading
from collections.abc import Iterator

import pytest

from service.bus.local_bus import LocalBus
from service.bus.redis_bus import RedisBus
from service.control.ports import Bus
from tests.redis_server import RedisServer
from tests.waiting import eventually

DEADLINE_SECONDS = 20.0
MANY = 500


@pytest.fixture(params=["local", "redis"])
def buses(request: pytest.FixtureRequest) -> Iterator[tuple[Bus, Bus]]:
    """As two servers of one service have it."""
    both: tuple[Bus, Bus]
    if request.param == "local":
        local = LocalBus()
        both = (local, local)
    else:
        url = request.getfixturevalue("redis_server").url
        both = (RedisBus(url), RedisBus(url))
    for bus in both:
        bus.start()
    eventually(lambda: all(bus.trouble is None for bus in both))
    yield both
    for bus in both:
        bus.close()
        bus.close()


def test_a_wake_up_reaches_the_same_server_at_once(buses: tuple[Bus, Bus]) -> None:
    here, _ = buses
    heard = list[str]()
    here.listen("queue", lambda: heard.append("woken"))
    here.wake("queue")
    assert heard == ["woken"]


def test_a_wake_up_reaches_the_other_server(buses: tuple[Bus, Bus]) -> None:
    here, there = buses
    woken = threading.Event()
    there.listen("job/1", woken.set)
    here.wake("job/1")
    assert woken.wait(DEADLINE_SECONDS)


def test_only_those_who_listen_to_the_topic_are_woken(buses: tuple[Bus, Bus]) -> None:
    here, there = buses
    right, wrong = threading.Event(), threading.Event()
    there.listen("agent/a", wrong.set)
    there.listen("agent/b", right.set)
    here.wake("agent/b")
    assert right.wait(DEADLINE_SECONDS)
    assert not wrong.is_set()


def test_who_has_left_is_not_woken(buses: tuple[Bus, Bus]) -> None:
    here, there = buses
    gone, stays = threading.Event(), threading.Event()
    leave = there.listen("queue", gone.set)
    there.listen("queue", stays.set)
    leave()
    leave()
    here.wake("queue")
    assert stays.wait(DEADLINE_SECONDS)
    assert not gone.is_set()


def test_many_topics_at_once_all_arrive(buses: tuple[Bus, Bus]) -> None:
    here, there = buses
    woken = [threading.Event() for _ in range(MANY)]
    for number, event in enumerate(woken):
        there.listen(f"job/{number}", event.set)
    for number in range(MANY):
        here.wake(f"job/{number}")
    assert all(event.wait(DEADLINE_SECONDS) for event in woken)


def test_while_nothing_is_wrong_nobody_has_to_poll_often(buses: tuple[Bus, Bus]) -> None:
    assert all(bus.poll_seconds == 20.0 for bus in buses)


def test_nothing_is_delivered_after_the_end(redis_server: RedisServer) -> None:
    """A local bus ends with its process."""
    here, there, third = (RedisBus(redis_server.url) for _ in range(3))
    for bus in (here, there, third):
        bus.start()
    eventually(lambda: all(bus.trouble is None for bus in (here, there, third)))
    woken, mark = threading.Event(), threading.Event()
    there.listen("queue", woken.set)
    third.listen("queue", mark.set)
    there.close()
    here.wake("queue")
    assert mark.wait(DEADLINE_SECONDS)
    assert not woken.is_set()
    for bus in (here, third):
        bus.close()


def test_two_services_on_one_redis_do_not_hear_each_other(redis_server: RedisServer) -> None:
    ours, theirs = RedisBus(redis_server.url), RedisBus(f"{redis_server.url[:-1]}1")
    for bus in (ours, theirs):
        bus.start()
    eventually(lambda: ours.trouble is None and theirs.trouble is None)
    wrong, right = threading.Event(), threading.Event()
    theirs.listen("queue", wrong.set)
    also_ours = RedisBus(redis_server.url)
    also_ours.listen("queue", right.set)
    also_ours.start()
    eventually(lambda: also_ours.trouble is None)
    ours.wake("queue")
    assert right.wait(DEADLINE_SECONDS)
    assert not wrong.is_set()
    for bus in (ours, theirs, also_ours):
        bus.close()
