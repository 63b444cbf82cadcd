"""Watches a stage's curve while it grows, and says so when it stands still or waits for data."""

import math
from collections import deque

from workers.contract.curve_verdicts import plateau, starved
from workers.contract.reports import Noticed, Progress

LINES_MIN = 240  # a minute of them: a slow beginning, or one epoch's first batches, are no verdict
POINTS_MAX = 1000  # of the curve that are kept, evenly spaced, however long it gets


class CurveWatch:
    """Is shown every line of a stage's curve.

    Args:
        has_plateaus: whether a loss that does not fall says that nothing is learned; that of
            pretraining does not.
    """

    def __init__(self, *, has_plateaus: bool) -> None:
        self._has_plateaus = has_plateaus
        self._num_lines = 0
        self._points: list[tuple[int, float]] = []  # step, loss
        self._every = 1  # so many lines give one point
        self._seconds: deque[tuple[float, float]] = deque(maxlen=LINES_MIN)  # of a step, waited

    @property
    def num_points(self) -> int:
        """How many are kept."""
        return len(self._points)

    def look(self, line: Progress) -> list[Noticed]:
        """Take in a line; return what the owner should know of the curve."""
        self._seconds.append((line.step_seconds, line.data_wait_seconds))
        if line.loss is not None and math.isfinite(line.loss):
            if self._num_lines % self._every == 0:
                self._points.append((line.step, line.loss))
            if len(self._points) > POINTS_MAX:
                self._points, self._every = self._points[::2], 2 * self._every
        self._num_lines += 1
        if self._num_lines < LINES_MIN:
            return []
        steps_seconds, waits_seconds = zip(*self._seconds, strict=True)
        found = [starved(sum(steps_seconds), sum(waits_seconds))]
        if self._has_plateaus and self._points:
            steps, losses = zip(*self._points, strict=True)
            found.append(plateau(losses[0], steps, losses))
        return [noticed for noticed in found if noticed is not None]
