"""What becomes of wake-ups when their Redis dies, freezes, is flushed, or cuts its clients off."""

import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from service.bus import redis_bus
from service.bus.redis_bus import DEGRADED_POLL_SECONDS, EVERYTHING, RedisBus
from service.domain.errors import BadInput
from tests.contracts.test_bus import DEADLINE_SECONDS
from tests.redis_server import RedisServer
from tests.waiting import eventually


@dataclass
class Pair:
    """The buses of two servers on one Redis."""

    here: RedisBus
    there: RedisBus
    redis: RedisServer

    def wait_well(self) -> None:
        eventually(lambda: self.here.trouble is None and self.there.trouble is None)

    def wait_ill(self) -> None:
        eventually(lambda: self.here.trouble is not None and self.there.trouble is not None)

    def assert_carries(self) -> None:
        for sender, hearer in ((self.here, self.there), (self.there, self.here)):
            woken = threading.Event()
            leave = hearer.listen("queue", woken.set)
            sender.wake("queue")
            assert woken.wait(DEADLINE_SECONDS)
            leave()


@pytest.fixture
def pair(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    for name in ("BEAT_SECONDS", "ANSWER_SECONDS", "RETRY_SECONDS", "LISTEN_SECONDS"):
        monkeypatch.setattr(redis_bus, name, 0.1)
    monkeypatch.setattr(redis_bus, "SILENCE_SECONDS", 0.5)
    pair = Pair(RedisBus(redis_server.url), RedisBus(redis_server.url), redis_server)
    for bus in (pair.here, pair.there):
        bus.start()
    pair.wait_well()
    yield pair
    for bus in (pair.here, pair.there):
        bus.close()


def test_a_redis_that_died_is_noticed_and_found_again(pair: Pair) -> None:
    pair.redis.kill()
    pair.wait_ill()
    assert pair.here.poll_seconds == DEGRADED_POLL_SECONDS
    assert pair.here.errors > 0
    pair.redis.start()
    pair.wait_well()
    pair.assert_carries()
    assert pair.here.poll_seconds > DEGRADED_POLL_SECONDS


def test_a_redis_that_is_frozen_is_noticed_and_nobody_waits_for_it(pair: Pair) -> None:
    pair.redis.freeze()
    pair.wait_ill()
    began = time.monotonic()
    for number in range(1000):
        pair.here.wake(f"job/{number}")
    assert time.monotonic() - began < DEADLINE_SECONDS / 4, "a waker waits for Redis"
    pair.redis.thaw()
    pair.wait_well()
    pair.assert_carries()


def test_a_redis_that_is_flushed_carries_on(pair: Pair) -> None:
    pair.redis.client.flushall()
    pair.assert_carries()


def test_clients_that_are_cut_off_come_back(pair: Pair) -> None:
    cut = 0
    for client in pair.redis.client.client_list():
        if client["sub"] != "0":
            cut += pair.redis.client.client_kill_filter(_id=client["id"])
    assert cut == 2
    eventually(lambda: pair.here.errors > 0 and pair.there.errors > 0)
    pair.wait_well()
    pair.assert_carries()


def test_when_redis_goes_everybody_looks_once_and_when_it_is_back_once_more(pair: Pair) -> None:
    looked = threading.Event()
    pair.there.listen("job/1", looked.set)
    pair.redis.kill()
    assert looked.wait(DEADLINE_SECONDS), "who waits for long must begin to poll"
    pair.wait_ill()
    looked.clear()
    pair.redis.start()
    assert looked.wait(DEADLINE_SECONDS), "what was published meanwhile is gone"


def test_what_could_not_be_sent_is_sent_later(pair: Pair) -> None:
    """Also where only the sender's connection broke, so that nobody else noticed anything."""
    woken = threading.Event()
    pair.there.listen("job/1", woken.set)
    publish, failures = pair.here._publish, 3

    def broken(topics: set[str]) -> None:
        nonlocal failures
        if failures and topics:
            failures -= 1
            raise ConnectionResetError("cut")
        publish(topics)

    pair.here._publish = broken  # type: ignore[method-assign]
    pair.here.wake("job/1")
    assert woken.wait(DEADLINE_SECONDS)
    assert failures == 0


def test_too_many_topics_become_one_word_for_all(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_bus, "TOPICS_MAX", 2)
    woken = threading.Event()
    pair.there.listen("nobody speaks of this", woken.set)
    pair.here._outbox |= {"a", "b"}
    pair.here.wake("c")
    assert woken.wait(DEADLINE_SECONDS), EVERYTHING


def test_without_a_redis_a_server_starts_and_says_so(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.kill()
    bus = RedisBus(redis_server.url)
    bus.start()
    eventually(lambda: bus.errors > 1)
    bus.close()
    assert bus.trouble is not None
    assert "refused" in bus.trouble
    assert sum("Redis is away" in line for line in caplog.messages) == 1


@pytest.mark.parametrize(
    "url", ["localhost:6379", "http://redis:6379", "redis://host:port/0", "redis://u:secret/x@h:1"]
)
def test_a_url_of_no_redis_is_refused_by_its_variable_and_not_shown(url: str) -> None:
    with pytest.raises(BadInput, match="STRATA_REDIS_URL") as caught:
        RedisBus(url)
    assert caught.value.remedy
    assert "secret" not in "".join(traceback.format_exception(caught.value))
