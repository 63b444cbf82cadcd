"""Wake-ups inside one process."""

import threading
from collections import defaultdict
from collections.abc import Callable

ALONE_POLL_SECONDS = 20.0  # no wake-up is lost inside one process: a whole long-poll may pass
SHARED_POLL_SECONDS = 1.0  # other servers may write, and we do not hear of it


class LocalBus:
    """The bus of a single server: whoever listens is called at once, on the waker's thread.

    Of several servers without a Redis, each has its own: `poll_seconds` is then short.
    """

    def __init__(self, poll_seconds: float = ALONE_POLL_SECONDS) -> None:
        self._lock = threading.Lock()
        self._listeners: defaultdict[str, dict[object, Callable[[], None]]] = defaultdict(dict)
        self.poll_seconds = poll_seconds

    @property
    def trouble(self) -> str | None:
        """Why wake-ups may be lost; nothing can go wrong here."""
        return None

    def wake(self, topic: str) -> None:
        """Call everyone who listens to the topic."""
        with self._lock:
            listeners = list(self._listeners.get(topic, {}).values())
        for on_wake in listeners:  # without the lock: they may listen, leave and wake themselves
            on_wake()

    def wake_all(self) -> None:
        """Call everyone who listens to anything: something may have been missed."""
        with self._lock:
            topics = list(self._listeners)
        for topic in topics:
            self.wake(topic)

    def listen(self, topic: str, on_wake: Callable[[], None]) -> Callable[[], None]:
        """Call `on_wake` at each wake-up of the topic; return what ends it."""
        listening = object()  # the same `on_wake` may listen twice
        with self._lock:
            self._listeners[topic][listening] = on_wake

        def leave() -> None:
            with self._lock:
                listeners = self._listeners.get(topic, {})
                listeners.pop(listening, None)
                if not listeners:  # topics are as many as jobs: none is kept for nobody
                    self._listeners.pop(topic, None)

        return leave

    def start(self) -> None:
        """There is nothing to start."""

    def close(self) -> None:
        """There is nothing to stop."""
