"""A job's curves as series: one for each name and stage, each step in it once.

An attempt goes on from a checkpoint, and so repeats steps that an earlier one had told already, as
does a rollback within an attempt. What was told last of a step is what the net has been through.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Line:
    """What was told at one moment."""

    attempt: int
    stage_index: int
    step: int  # optimizer steps of the whole job
    at_seconds: float  # since 1970
    values: Mapping[str, float | None]  # None: not finite, or not known


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a series."""

    step: int
    at_seconds: float
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """One figure over the steps of one stage; it has a point at least, and only finite ones."""

    name: str  # "loss", "grad_norm", or of one layer "grad_norm.layer"
    stage_index: int
    points: tuple[Point, ...]  # in rising steps

    @property
    def figure(self) -> str:
        """What is measured, of the whole net or of a layer."""
        return self.name.partition(".")[0]

    @property
    def layer(self) -> str | None:
        """The layer that it is of."""
        return self.name.partition(".")[2] or None

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1].value

    @property
    def lowest(self) -> float:
        """The smallest value."""
        return min(point.value for point in self.points)

    @property
    def highest(self) -> float:
        """The largest value."""
        return max(point.value for point in self.points)


def series_of(lines: Sequence[Line]) -> list[Series]:
    """All series of these lines of one job, which are in the order in which they were told.

    They come stage by stage; within one in the order in which lines name them.
    """
    found: dict[tuple[int, str], list[Point]] = {}
    for line in _standing(lines):
        for name, value in line.values.items():
            if value is not None and math.isfinite(value):
                point = Point(line.step, line.at_seconds, value)
                found.setdefault((line.stage_index, name), []).append(point)
    keys = sorted(found, key=lambda key: key[0])
    return [Series(name, stage, tuple(found[stage, name])) for stage, name in keys]


def chosen(series: Sequence[Series], patterns: Sequence[str], layer: str | None) -> list[Series]:
    """Those whose name is one of the patterns, in which `*` means anything; no pattern: all.

    With a layer, its own: `grad_norm` then means `grad_norm.LAYER`. The stages of one name come
    one after the other.
    """
    end = "" if layer is None else f".{layer}"
    wanted = [pattern + end for pattern in (patterns or ("*",))]
    names = dict.fromkeys(one.name for one in series)
    picked = [name for name in names if any(fnmatchcase(name, pattern) for pattern in wanted)]
    return [one for name in picked for one in series if one.name == name]


def _standing(lines: Sequence[Line]) -> list[Line]:
    """Without the lines that a later one went back behind."""
    standing: list[Line] = []
    first_step = math.inf  # of all that was told later
    for line in reversed(lines):
        if line.step < first_step:
            standing.append(line)
            first_step = line.step
    return standing[::-1]
