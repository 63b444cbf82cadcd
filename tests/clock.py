"""A clock that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta

BEGAN_AT = datetime(2026, 11, 1, tzinfo=UTC)


class ManualClock:
    """Implements the port `Clock`; both of its clocks move together."""

    def __init__(self) -> None:
        self._passed = timedelta()

    def now(self) -> datetime:
        return BEGAN_AT + self._passed

    def monotonic(self) -> float:
        return self._passed.total_seconds()

    def advance(self, seconds: float) -> None:
        self._passed += timedelta(seconds=seconds)
