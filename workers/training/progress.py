"""Tells where the training is, a few times a second at the most."""

import math
import time

from workers.contract.reports import Progress
from workers.stages.catalog import StagePlan
from workers.telemetry.utilization import Utilization, memory_bytes
from workers.training.course import Course
from workers.training.schedule import lr_at

INTERVAL_SECONDS = 0.25  # people read no faster, and the service stores each of them


class ProgressClock:
    """Knows when the next progress is due, and what to say of the time since the last one."""

    def __init__(self, course: Course, plan: StagePlan, utilization: Utilization | None) -> None:
        self._course = course
        self._plan = plan
        self._utilization = utilization
        self._told_at = -math.inf
        self._begun_at = time.perf_counter()
        self._steps = 0
        self._wait_seconds = 0.0

    def is_due(self) -> bool:
        """Whether this rank wants a progress after the coming step; only rank 0 ever does."""
        return (
            self._course.seat.is_first and time.perf_counter() - self._told_at >= INTERVAL_SECONDS
        )

    def count(self, data_wait_seconds: float) -> None:
        """Count one step, and how long it waited for its data."""
        self._steps += 1
        self._wait_seconds += data_wait_seconds

    def tell(self, stage_step: int, loss: float, metrics: dict[str, float]) -> Progress:
        """Tell the progress, and return it; `loss` is the mean since the last one."""
        now = time.perf_counter()
        steps = max(1, self._steps)
        seconds = now - self._begun_at
        plan, last_plan = self._plan, self._course.plans[-1]
        step = plan.first_step + stage_step
        samples_per_second = steps * plan.batch_size / seconds
        used = self._utilization
        remaining_steps = last_plan.first_step + last_plan.steps - step
        progress = Progress(
            stage_index=plan.index,
            epoch=stage_step // plan.steps_per_epoch,
            stage_step=stage_step,
            step=step,
            loss=loss if math.isfinite(loss) else None,
            lr=lr_at(plan, stage_step - 1),
            samples=plan.first_sample + stage_step * plan.batch_size,
            samples_per_second=samples_per_second,
            step_seconds=seconds / steps,
            data_wait_seconds=self._wait_seconds / steps,
            eta_seconds=remaining_steps * seconds / steps,
            memory_bytes=memory_bytes(self._course.seat.device),
            mfu=None if used is None else used.mfu(samples_per_second),
            metrics=metrics,
        )
        self._course.tell(progress)
        self._told_at = self._begun_at = now
        self._steps, self._wait_seconds = 0, 0.0
        return progress
