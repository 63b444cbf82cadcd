"""Time and identity from the machine: the two things that control does not decide by itself."""

import secrets
import threading
import time
from datetime import UTC, datetime

from workers.contract.wire import JobId


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Seconds from some beginning; never goes back."""
        return time.monotonic()

    def now(self) -> datetime:
        """The wall clock, UTC."""
        return datetime.now(UTC)


class JobIds:
    """Makes UUIDv7 (RFC 9562): 48 bits of milliseconds, then random; later ones sort later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms = 0

    def __call__(self) -> JobId:
        """Return a new id; the clock may stand still or go back, the ids don't."""
        with self._lock:
            now_ms = max(time.time_ns() // 1_000_000, self._last_ms + 1)
            self._last_ms = now_ms
        value = (now_ms << 80) | secrets.randbits(80)
        value = value & ~(0xF << 76) | (0x7 << 76)  # version 7
        value = value & ~(0x3 << 62) | (0x2 << 62)  # the RFC's variant
        text = f"{value:032x}"
        return JobId(f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}")
