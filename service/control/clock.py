"""Time and identity from the machine: the two things that control does not decide by itself."""

import secrets
import threading
import time

from workers.contract.wire import JobId, uuid7


class SystemClock:
    """The machine's clock; what is compared between processes bears the database's."""

    def monotonic(self) -> float:
        """Seconds from some beginning; never goes back."""
        return time.monotonic()


class JobIds:
    """Makes ids of which later ones sort later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms = 0

    def __call__(self) -> JobId:
        """Return a new id; the clock may stand still or go back, the ids don't."""
        with self._lock:
            now_ms = max(time.time_ns() // 1_000_000, self._last_ms + 1)
            self._last_ms = now_ms
        return JobId(uuid7(now_ms, secrets.randbits(80)))
