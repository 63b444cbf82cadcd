"""Tells a gang that hangs from one that works: alive is not advancing."""

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workers.contract.launch import Deadlines
from workers.telemetry.listener import BEGIN_PHASE

PACES_KEPT = 100  # step times that the median is taken of: enough to forget a slow beginning
WATCHED_PHASE = "train"  # evaluation, checkpoints and set-up have a clock of their own
BEGIN_FACTOR = 20.0  # times the least limit of a step: torch.compile takes a minute and more
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
    phase: str = WATCHED_PHASE

    @property
    def sentence(self) -> str:
        """What the owner reads."""
        who = "they wait for each other" if self.rank is None else f"rank {self.rank} lags behind"
        return (
            f"no rank took a step for {self.seconds:.0f} s "
            f"(limit {self.limit_seconds:.0f} s{self._where}); {who}"
        )

    @property
    def _where(self) -> str:
        return "" if self.phase == WATCHED_PHASE else f" of {self.phase!r}"


class Watchdog:
    """Is shown every rank's step and phase, and says when it is too long."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._steps: tuple[int, ...] = ()
        self._moved_at: float | None = None
        # Steps and phases, while some rank does not train.
        self._resting: tuple[int | str, ...] = ()
        self._rests_since = 0.0
        self._paces: deque[float] = deque(maxlen=PACES_KEPT)

    def look(self, steps: Sequence[int], phases: Sequence[str], now: float) -> Hang | None:
        """Take a look at `now` (seconds, monotonic).

        Ranks that wait in a collective for one that saves or evaluates do not hang: the clock of
        steps rests, and that of the phase runs.
        """
        if any(phase != WATCHED_PHASE for phase in phases):
            self._moved_at = None
            if BEGIN_PHASE in phases:  # of another stage, which has another pace
                self._paces.clear()
            return self._look_at_phases(steps, phases, now)
        self._resting = ()
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

    def _look_at_phases(
        self, steps: Sequence[int], phases: Sequence[str], now: float
    ) -> Hang | None:
        if (*steps, *phases) != self._resting:
            self._resting, self._rests_since = (*steps, *phases), now
            return None
        waited, limit = now - self._rests_since, self._deadlines.phase_seconds
        if set(phases) <= {BEGIN_PHASE, WATCHED_PHASE}:
            limit = min(limit, BEGIN_FACTOR * self._deadlines.hang_seconds_min)
        if waited <= limit:
            return None
        inside = [rank for rank, phase in enumerate(phases) if phase != WATCHED_PHASE]
        lags = inside[0] if len(inside) == 1 and len(phases) > 1 else None
        return Hang(lags, waited, limit, phases[inside[0]])

    def _limit_seconds(self) -> float:
        pace = statistics.median(self._paces) if self._paces else 0.0
        return max(self._deadlines.hang_seconds_min, self._deadlines.hang_step_factor * pace)


def lagging(steps: Sequence[int], stacks: Mapping[int, Sequence[str]]) -> int | None:
    """The rank for which the others wait; None where all of them wait, or none is seen to.

    Mostly all stand after the same step: one is somewhere of its own, the others in a collective.
    On GPUs a collective only seems to return, and all ranks wait wherever they next need a value.
    """
    behind = _behind(steps)
    silent = [rank for rank in behind if SILENT in stacks[rank]]
    if silent or len(behind) == 1:
        return (silent or behind)[0]
    elsewhere = [rank for rank in behind if not _waits(stacks[rank])]
    return elsewhere[0] if 0 < len(elsewhere) < len(behind) else None


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
