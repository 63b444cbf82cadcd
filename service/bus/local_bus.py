"""Wake-ups inside one process."""

import threading
from collections import defaultdict
from collections.abc import Callable


class LocalBus:
    """The bus of a single server: whoever listens is called at once, on the waker's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)

    def wake(self, topic: str) -> None:
        """Call everyone who listens to the topic."""
        with self._lock:
            listeners = list(self._listeners.get(topic, ()))
        for on_wake in listeners:
            on_wake()

    def listen(self, topic: str, on_wake: Callable[[], None]) -> Callable[[], None]:
        """Call `on_wake` at each wake-up of the topic; return what ends it."""
        with self._lock:
            self._listeners[topic].append(on_wake)

        def leave() -> None:
            with self._lock:
                remaining = [one for one in self._listeners[topic] if one is not on_wake]
                if remaining:
                    self._listeners[topic] = remaining
                else:
                    del self._listeners[topic]

        return leave
