"""Tells a gang that hangs from one that works: alive is not advancing."""

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workers.contract.launch import Deadlines

PACES_KEPT = 100  # step times that the median is taken of: enough to forget a slow beginning
WATCHED_PHASE = "train"  # evaluation, checkpoints and set-up have no steps to count
SILENT = "(it does not answer)"  # stands for the stacks of a rank that is frozen, or holds the GIL
TRAINING_FRAME = "in _train"  # the thread that trains, among those of a rank
WAITING_FILES = ("torch/distributed/", "torch/autograd/graph.py", "workers/parallel/replicas.py")
"""Where the innermost Python frame is while a rank waits for the others in a collective."""


@dataclass(frozen=True)
class Hang:
    """Nobody advances; `rank` is the one that lags, None where it can't be told."""

    rank: int | None
    seconds: float
    limit_seconds: float

    @property
    def sentence(self) -> str:
        """What the owner reads."""
        who = "they wait for each other" if self.rank is None else f"rank {self.rank} lags behind"
        return (
            f"no rank took a step for {self.seconds:.0f} s "
            f"(limit {self.limit_seconds:.0f} s); {who}"
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
        behind = _behind(steps)
        return Hang(behind[0] if len(behind) == 1 else None, waited, limit)

    def _limit_seconds(self) -> float:
        pace = statistics.median(self._paces) if self._paces else 0.0
        return max(self._deadlines.hang_seconds_min, self._deadlines.hang_step_factor * pace)


def lagging(steps: Sequence[int], stacks: Mapping[int, Sequence[str]]) -> int | None:
    """The rank for which the others wait; None where all of them wait.

    Mostly all stand after the same step: one is somewhere of its own, the others in a collective.
    """
    behind = _behind(steps)
    silent = [rank for rank in behind if SILENT in stacks[rank]]
    elsewhere = [rank for rank in behind if not _waits(stacks[rank])]
    return next(iter([*silent, *elsewhere]), behind[0] if len(behind) == 1 else None)


def _behind(steps: Sequence[int]) -> list[int]:
    return [rank for rank, step in enumerate(steps) if step == min(steps)]


def _waits(stacks: Sequence[str]) -> bool:
    """True if the thread that trains is inside of a collective."""
    innermost = ""
    for line in stacks:
        is_frame = line.lstrip().startswith("File")
        innermost = (innermost or line) if is_frame else ""
        if TRAINING_FRAME in line:
            return any(file in innermost for file in WAITING_FILES)
    return False
