"""What the lines of a job's curves come to: the newest, and what only all of them together say."""

from collections.abc import Mapping
from dataclasses import dataclass

from workers.contract.reports import Progress


@dataclass(frozen=True, slots=True)
class Told:
    """Everything up to one line."""

    attempt: int  # that told the line
    progress: Progress  # the line
    figures: Mapping[str, float]  # the last of each of the stage's metrics: no line has them all
    data_wait_seconds: float  # that all steps of the job waited for their data, also those redone

    @property
    def num_nonfinite_steps(self) -> int:
        """Steps of the stage that were left out, because a gradient was no number."""
        return int(self.figures.get("nonfinite_steps", 0))


def told_after(before: Told | None, attempt: int, progress: Progress) -> Told:
    """Add one line.

    A line speaks of the steps since the one before it. The first of an attempt is told after one
    step, and so is the first after a rollback.
    """
    steps, figures, waited = 1, dict(progress.metrics), 0.0
    if before is not None:
        waited = before.data_wait_seconds
        if before.progress.stage_index == progress.stage_index:
            figures = {**before.figures, **progress.metrics}
        if before.attempt == attempt and before.progress.step < progress.step:
            steps = progress.step - before.progress.step
    return Told(attempt, progress, figures, waited + steps * progress.data_wait_seconds)
