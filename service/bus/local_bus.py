"""Wake-ups inside one process."""

import threading
from collections import defaultdict
from collections.abc import Callable


class LocalBus:
    """The bus of a single server: whoever listens is called at once, on the waker's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: defaultdict[str, dict[object, Callable[[], None]]] = defaultdict(dict)

    def wake(self, topic: str) -> None:
        """Call everyone who listens to the topic."""
        with self._lock:
            listeners = list(self._listeners.get(topic, {}).values())
        for on_wake in listeners:  # without the lock: they may listen, leave and wake themselves
            on_wake()

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
