"""Wake-ups among several servers, through Redis.

They are hints: who waits looks by itself every `poll_seconds`, which is short while Redis is away.
So nothing here may keep a caller waiting, and nothing is lost with Redis but time. A waker only
puts its topic into an outbox; one thread publishes it, another hears what the other servers
publish. Both prove themselves by a beat that this server sends and has to hear again, because a
Redis that is frozen, or a connection that is cut without a word, raises no error.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.bus.local_bus import ALONE_POLL_SECONDS, LocalBus
from service.domain.errors import BadInput

DEGRADED_POLL_SECONDS = 1.0
BEAT_SECONDS = 1.0
SILENCE_SECONDS = 3.0  # two beats that did not come back
ANSWER_SECONDS = 2.0  # for one command; a healthy Redis needs a thousandth of it
RETRY_SECONDS = 1.0
LISTEN_SECONDS = 0.5  # how soon the listener sees that it shall end
TOPICS_MAX = 10_000  # beyond it, one word that wakes everybody is shorter
EVERYTHING = "*"
BEAT = ""
UNHEARD = "it has not been heard yet"

log = logging.getLogger(__name__)


class RedisBus:
    """The bus of one of several servers; see `Bus` in control/ports."""

    def __init__(self, url: str) -> None:
        """Open nothing yet.

        Args:
            url: `redis://`, `rediss://` or `unix://`. Servers of one service share it; two services
                on one Redis take different database numbers.

        Raises:
            BadInput: the URL is none of these.
        """
        try:
            self._redis: redis.Redis = redis.Redis.from_url(
                url,
                socket_timeout=ANSWER_SECONDS,
                socket_connect_timeout=ANSWER_SECONDS,
                retry=Retry(NoBackoff(), 0),  # our threads try again by themselves
            )
        except ValueError:  # its words are not shown: they may quote a part of the password
            raise BadInput(
                "is no URL of a Redis",
                place="STRATA_REDIS_URL",
                remedy="write redis://user:password@host:6379/0, its user and password URL-encoded",
            ) from None
        number = self._redis.connection_pool.connection_kwargs.get("db", 0)
        self._channel = f"strata:{number}:wake"
        self._origin = secrets.token_hex(8)
        self._local = LocalBus()
        self._outbox: set[str] = set()
        self._lock = threading.Condition()
        self._closing = threading.Event()
        self._trouble: str | None = UNHEARD
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (("bus-send", self._send), ("bus-hear", self._hear))
        ]
        self.errors = 0

    @property
    def trouble(self) -> str | None:
        """Why wake-ups may be lost; None while all is well."""
        return self._trouble

    @property
    def poll_seconds(self) -> float:
        """How long who waits may wait without looking by itself."""
        return ALONE_POLL_SECONDS if self._trouble is None else DEGRADED_POLL_SECONDS

    def start(self) -> None:
        """Begin to send and to hear; a Redis that is away is waited for."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop, without waiting for a Redis that is away."""
        self._closing.set()
        with self._lock:
            self._lock.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(ANSWER_SECONDS + LISTEN_SECONDS)
        self._redis.close()

    def wake(self, topic: str) -> None:
        """Wake this server's listeners now, and the others' as soon as Redis tells them."""
        self._local.wake(topic)
        self._post(topic)

    def listen(self, topic: str, on_wake: Callable[[], None]) -> Callable[[], None]:
        """Call `on_wake` at each wake-up of the topic; return what ends it."""
        return self._local.listen(topic, on_wake)

    def _post(self, topic: str) -> None:
        with self._lock:
            self._outbox.add(topic)
            self._lock.notify_all()

    def _send(self) -> None:
        beat_at = 0.0
        while not self._closing.is_set():
            topics = self._take(beat_at)
            try:
                self._publish(topics)
                beat_at = time.monotonic() + BEAT_SECONDS
            except (redis.RedisError, OSError) as error:
                with self._lock:  # who hears may hear again sooner than we can send
                    self._outbox |= topics
                self._fell_ill(error)
                self._closing.wait(RETRY_SECONDS)

    def _take(self, beat_at: float) -> set[str]:
        """Everything in the outbox, as soon as something is there or a beat is due."""
        with self._lock:
            self._lock.wait_for(
                lambda: self._outbox or self._closing.is_set(),
                timeout=max(0.0, beat_at - time.monotonic()),
            )
            topics, self._outbox = self._outbox, set()
        return topics if len(topics) <= TOPICS_MAX else {EVERYTHING}

    def _publish(self, topics: set[str]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for topic in sorted(topics) or [BEAT]:
            pipeline.publish(self._channel, f"{self._origin} {topic}")
        pipeline.execute()

    def _hear(self) -> None:
        while not self._closing.is_set():
            try:
                # redis-py has no types for this call.
                with self._redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(self._channel)
                    self._hear_until_silence(subscription)
            except (redis.RedisError, OSError) as error:
                self._fell_ill(error)
                self._closing.wait(RETRY_SECONDS)

    def _hear_until_silence(self, subscription: Any) -> None:
        heard_at = time.monotonic()
        while not self._closing.is_set():
            message = subscription.get_message(timeout=LISTEN_SECONDS)
            if time.monotonic() - heard_at > SILENCE_SECONDS:
                raise redis.TimeoutError(f"no beat for {SILENCE_SECONDS:.0f} s")
            if message is not None and message["type"] == "subscribe":
                self._post(BEAT)  # one sent before would not have come back
            if message is None or message["type"] != "message":
                continue
            origin, _, topic = message["data"].decode(errors="replace").partition(" ")
            if origin == self._origin:
                heard_at = time.monotonic()
                self._recovered()
            elif topic == EVERYTHING:
                self._local.wake_all()
            elif topic != BEAT:
                self._local.wake(topic)

    def _fell_ill(self, error: Exception) -> None:
        self.errors += 1
        is_news, self._trouble = (
            self._trouble in (None, UNHEARD),
            f"{type(error).__name__}: {error}",
        )
        if is_news:
            log.warning("Redis is away, wake-ups are a poll late: %s", self._trouble)
            self._local.wake_all()  # who began to wait for long shall wait for short

    def _recovered(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            log.info("Redis carries wake-ups")
            self._local.wake_all()  # what was published meanwhile is gone
