"""The loop: one stage, step after step, with all that happens between two of them.

Nothing in it waits for the device but what somebody asked for: a report a few times a second, a
look of the diagnostics, a checkpoint, the end of an epoch. A loss that is no number is noticed at
the first of these, by all ranks alike.
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from workers.contract.outcome import StopReason
from workers.contract.reports import Evaluated
from workers.data.order import epoch_order, rank_part
from workers.parallel.replicas import Replicas
from workers.parallel.sharding import is_sharded
from workers.parallel.signals import Signals
from workers.stages.catalog import StagePlan
from workers.stages.handover import Inputs
from workers.training.course import Course
from workers.training.diagnostics import Diagnostics, Look
from workers.training.evaluate import evaluate
from workers.training.guard import VOID_IN_A_ROW_MAX
from workers.training.keep import Position, Trained, before_update, is_due, non_finite, save
from workers.training.progress import ProgressClock
from workers.training.schedule import lr_at, momentum_at


class StageLoop:
    """One stage on one rank.

    Args:
        course: the attempt.
        plan: the stage.
        inputs: what its layer sees.
        trained: what it changes, in place.
        position: where it begins.
    """

    def __init__(
        self, course: Course, plan: StagePlan, inputs: Inputs, trained: Trained, position: Position
    ) -> None:
        self._course = course
        self._plan = plan
        self._inputs = inputs
        self._trained = trained
        self.position = position
        objective, seat = trained.objective, course.seat
        is_finetuned = plan.layer is None
        training = course.recipe.training if is_finetuned else None
        self._replicas = Replicas(objective, seat, objective.fills_gradients, training)
        self._signals = Signals()
        self._part = rank_part(plan.batch_size, seat.rank, seat.world_size)
        self._share = (self._part.stop - self._part.start) * seat.world_size / plan.batch_size
        self._guard = trained.optimizer.guard
        self._skips = is_finetuned and course.recipe.training.on_non_finite == "skip"
        self._clock = ProgressClock(course, plan)
        self._order = torch.empty(0)
        self._order_epoch = -1
        self._diagnostics: Diagnostics | None = None
        if is_finetuned and seat.is_first and not is_sharded(objective):
            self._diagnostics = Diagnostics(course.net)
        self._metrics: dict[str, float] = {}  # of the last look, until they are told

    def run(self) -> StopReason | None:
        """Train to the end of the stage, or until told to stop; a checkpoint stands at either.

        Raises:
            NonFiniteFailure: the loss or a weight is no number any more; on every rank.
            StorageFailure: a checkpoint was refused; on every rank.
        """
        self._course.listener.phase("train")
        begun_at, seconds_before = time.perf_counter(), self.position.seconds
        stop: StopReason | None = None
        while self.position.stage_step < self._plan.steps and stop is None:
            stop, is_report_due = self._step()
            stage_step = self.position.stage_step
            self._course.listener.advance(self._plan.first_step + stage_step)
            is_over = stage_step == self._plan.steps
            if stage_step % self._plan.steps_per_epoch == 0:
                self._close_epoch()
            if is_over:
                self._trained.optimizer.settle()
            if is_report_due or is_over or stop is not None:
                self._report()
            is_save_due = is_due(self._course, self._plan, self.position)
            if is_save_due or is_over or stop is not None:
                seconds = seconds_before + time.perf_counter() - begun_at
                self.position = replace(self.position, seconds=seconds, is_stage_over=is_over)
                save(self._course, self._plan, self._trained, self.position)
        self._replicas.release()
        return stop

    def _step(self) -> tuple[StopReason | None, bool]:
        """Do one optimizer step; return what the ranks agreed on beside it."""
        plan, stage_step = self._plan, self.position.stage_step
        epoch = stage_step // plan.steps_per_epoch
        order = self._course.listener.stop_order()
        self._signals.raise_marks(order.reason if order else None, self._clock.is_due())
        started_at = time.perf_counter()
        x_BV, y_B = self._batch(epoch, stage_step % plan.steps_per_epoch)
        data_wait_seconds = time.perf_counter() - started_at
        with self._looking(stage_step) as look:
            scale = None if self._guard is None else self._guard.scale
            loss = self._replicas.gradients(
                x_BV, y_B, self._share, self._signals, scale, look is not None
            )
        before_update(self._course)
        lr, momentum = lr_at(plan, stage_step), momentum_at(plan, epoch)
        self._trained.optimizer.step(lr, momentum, stage_step, epoch)
        self._trained.tally.add(loss, self._skips)
        self._clock.count(data_wait_seconds)
        self.position = replace(self.position, stage_step=stage_step + 1)
        if look is not None:
            self._conclude(look)
        return self._signals.read()

    def _batch(self, epoch: int, step_of_epoch: int) -> tuple[Tensor, Tensor]:
        """This rank's part of a global batch."""
        data, device = self._course.data.train, self._course.seat.device
        if epoch != self._order_epoch:
            seed, index = self._course.recipe.seed, self._plan.index
            self._order = epoch_order(len(data), seed, index, epoch).to(device)
            self._order_epoch = epoch
        start = step_of_epoch * self._plan.batch_size
        rows_B = self._order[start + self._part.start : start + self._part.stop]
        return self._inputs.rows(rows_B, epoch), data.labels(rows_B)

    def _close_epoch(self) -> None:
        loss = self._trained.tally.close_epoch(self._plan.steps_per_epoch)
        self._check(loss)
        is_first = self.position.stage_step == self._plan.steps_per_epoch
        self.position = replace(
            self.position,
            loss_first=loss if is_first else self.position.loss_first,
            loss_last=loss,
        )
        validation = self._course.data.validation
        if self._plan.layer is not None or validation is None:
            return
        self._course.listener.phase("evaluate")
        with self._trained.optimizer.averaged():
            metrics = evaluate(self._course.net, validation, self._course.seat)
        step = self._plan.first_step + self.position.stage_step
        best = self._course.recipe.checkpoint.best
        self.position = self.position.evaluated(step, metrics, best)
        self._course.tell(
            Evaluated(stage_index=self._plan.index, step=step, split="validation", metrics=metrics)
        )
        self._course.listener.phase("train")

    def _report(self) -> None:
        loss = self._trained.tally.close_while()
        num_void, num_in_a_row = (0, 0) if self._guard is None else self._guard.counts()
        if num_void > 0:
            self._metrics["nonfinite_steps"] = float(num_void)
        self._clock.tell(self.position.stage_step, loss, self._metrics)
        self._metrics = {}
        self._check(loss)
        if num_in_a_row >= VOID_IN_A_ROW_MAX:
            raise non_finite(self._plan, self.position.stage_step)

    def _check(self, loss: float) -> None:
        """Raise where a loss is no number: on every rank, for all of them hold the same mean."""
        if not math.isfinite(loss) and not self._skips:
            raise non_finite(self._plan, self.position.stage_step)

    def _looking(self, stage_step: int) -> AbstractContextManager[Look | None]:
        every = self._course.recipe.training.diagnostics_every_steps
        if self._diagnostics is None or every == 0 or stage_step % every != 0:
            return nullcontext()
        return self._diagnostics.looking()

    def _conclude(self, look: Look) -> None:
        assert self._diagnostics is not None
        self._metrics = self._diagnostics.metrics(look)
        for noticed in self._diagnostics.verdicts(self._metrics):
            if noticed.code not in self.position.noticed:
                self._course.tell(noticed)
                codes = (*self.position.noticed, noticed.code)
                self.position = replace(self.position, noticed=codes)
