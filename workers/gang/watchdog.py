"""Tells a gang that hangs from one that works: alive is not advancing."""

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from workers.contract.launch import Deadlines

PACES_KEPT = 100  # step times that the median is taken of: enough to forget a slow beginning
WATCHED_PHASE = "train"  # evaluation, checkpoints and set-up have no steps to count


@dataclass(frozen=True)
class Hang:
    """Nobody advances; `rank` is the one that lags."""

    rank: int
    seconds: float
    limit_seconds: float

    @property
    def sentence(self) -> str:
        """What the owner reads."""
        return (
            f"no rank took a step for {self.seconds:.0f} s (limit {self.limit_seconds:.0f} s); "
            f"rank {self.rank} lags behind"
        )


class Watchdog:
    """Is shown every rank's step and phase, and says when it is too long."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._steps: tuple[int, ...] = ()
        self._moved_at: float | None = None
        self._paces: deque[float] = deque(maxlen=PACES_KEPT)

    def look(self, steps: Sequence[int], phases: Sequence[str], now: float) -> Hang | None:
        """Take a look at `now` (seconds, monotonic); a phase other than training rests the clock.

        Ranks that wait in a collective for one that saves or evaluates do not hang.
        """
        if any(phase != WATCHED_PHASE for phase in phases):
            self._moved_at = None
            return None
        if self._moved_at is None or tuple(steps) != self._steps:
            if self._moved_at is not None and steps[0] > self._steps[0]:
                self._paces.append((now - self._moved_at) / (steps[0] - self._steps[0]))
            self._steps, self._moved_at = tuple(steps), now
            return None
        limit = self._limit_seconds()
        waited = now - self._moved_at
        if waited <= limit:
            return None
        return Hang(min(range(len(steps)), key=lambda rank: steps[rank]), waited, limit)

    def _limit_seconds(self) -> float:
        pace = statistics.median(self._paces) if self._paces else 0.0
        return max(self._deadlines.hang_seconds_min, self._deadlines.hang_step_factor * pace)
