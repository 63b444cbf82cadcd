"""The loop: one stage, step after step, with all that happens between two of them.

Nothing in it waits for the device but what somebody asked for: a report a few times a second, a
look of the diagnostics, a checkpoint, the end of an epoch. A loss that is no number is noticed at
a report, a checkpoint or an epoch's end, by all ranks alike.
"""

import math
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from workers.contract.outcome import StopReason
from workers.contract.reports import Evaluated, Noticed
from workers.data.order import rank_part
from workers.optim.guard import VOID_IN_A_ROW_MAX
from workers.parallel.replicas import Replicas
from workers.parallel.signals import Agreed, Signals
from workers.stages.catalog import StagePlan
from workers.stages.handover import Inputs
from workers.telemetry.curve_watch import CurveWatch
from workers.telemetry.diagnostics import Diagnostics, Look
from workers.telemetry.listener import BEGIN_PHASE
from workers.telemetry.utilization import Utilization
from workers.training.contents import Trained
from workers.training.course import Course
from workers.training.evaluate import evaluate
from workers.training.position import Position
from workers.training.progress import ProgressClock
from workers.training.saving import before_update, is_due, non_finite, save
from workers.training.schedule import lr_at, momentum_at

# One that is looked at is not compiled, the next one is, and so may be one of another size.
BEGIN_STEPS = 3


class StageLoop:
    """One stage on one rank.

    Args:
        course: the attempt.
        plan: the stage.
        inputs: what its layer sees.
        trained: what it changes, in place.
        position: where it begins.
        utilization: what tells of the MFU.
    """

    def __init__(
        self,
        course: Course,
        plan: StagePlan,
        inputs: Inputs,
        trained: Trained,
        position: Position,
        utilization: Utilization | None = None,
    ) -> None:
        self._course = course
        self._plan = plan
        self._inputs = inputs
        self._trained = trained
        self.position = position
        objective, seat = trained.objective, course.seat
        is_finetuned = plan.is_finetuning
        training = course.recipe.training if is_finetuned else None
        self._replicas = Replicas(objective, seat, objective.fills_gradients, training)
        self._signals = Signals()
        self._part = rank_part(plan.batch_size, seat.rank, seat.world_size)
        self._share = (self._part.stop - self._part.start) * seat.world_size / plan.batch_size
        self._guard = guard = trained.optimizer.guard
        self._loss_scale = guard.scale if guard is not None and guard.scales else None
        on_non_finite = course.recipe.training.on_non_finite
        self._skips = is_finetuned and on_non_finite == "skip"
        self._goes_back = on_non_finite == "rollback"
        self._saved_at = time.perf_counter()
        self._batches_SB = torch.empty(0, 0)
        self._batches_epoch = -1
        self._diagnostics = Diagnostics.of(course.net, seat) if is_finetuned else None
        self._clock = ProgressClock(course, plan, utilization)
        self._curve = CurveWatch(has_plateaus=is_finetuned)
        self._metrics: dict[str, float] = {}  # of the last look and evaluation, until they are told

    def go_on_at(self, position: Position) -> None:
        """Move to another place of the stage, whose state has been restored."""
        self.position, self._batches_epoch = position, -1

    def run(self) -> StopReason | None:
        """Train to the end of the stage, or until told to stop; a checkpoint stands at either.

        Raises:
            NonFiniteFailure: the loss or a weight is no number any more; on every rank.
            StorageFailure: a checkpoint was refused; on every rank.
        """
        self._course.listener.phase(BEGIN_PHASE)
        begun_at, seconds_before = time.perf_counter(), self.position.seconds
        trains_from = self.position.stage_step + BEGIN_STEPS
        is_over = False
        stop: StopReason | None = None
        while not is_over and stop is None:
            step = self._plan.first_step + self.position.stage_step + 1
            with self._course.profiling.step(step):
                agreed = self._step()
            stop = agreed.stop
            self._course.listener.advance(self._plan.first_step + self.position.stage_step)
            if self.position.stage_step == trains_from:
                self._course.listener.phase("train")
            self._look_back()
            is_over = self._is_over()
            if is_over:
                self._trained.optimizer.settle()
            if agreed.is_report_due or is_over or stop is not None:
                self._report()
            is_save_due = agreed.is_save_due or is_due(self._course, self._plan, self.position)
            if is_save_due or is_over or stop is not None:
                seconds = seconds_before + time.perf_counter() - begun_at
                self.position = replace(self.position, seconds=seconds, is_stage_over=is_over)
                save(self._course, self._plan, self._trained, self.position)
                self._saved_at = time.perf_counter()
        self._replicas.release()
        return stop

    def _is_over(self) -> bool:
        """Whether the stage is: by its steps, or because it got no better; on all ranks alike."""
        position, early_stop = self.position, self._plan.early_stop
        if position.stage_step == self._plan.steps:
            return True
        if early_stop is None or not position.has_settled(early_stop):
            return False
        looks = f"{position.num_no_better} looks in a row found nothing better"
        why = looks if position.num_no_better >= early_stop.patience else "the target is reached"
        sentence = f"{self._plan.name} ended after {position.stage_step} steps: {why}."
        self._course.tell(Noticed(code="stopped_early", sentence=sentence))
        return True

    def _step(self) -> Agreed:
        """Do one optimizer step; return what the ranks agreed on beside it."""
        plan, stage_step = self._plan, self.position.stage_step
        epoch = stage_step // plan.steps_per_epoch
        order = self._course.listener.stop_order()
        reason = order.reason if order else None
        self._signals.raise_marks(reason, self._clock.is_due(), self._is_save_due())
        started_at = time.perf_counter()
        x_BV, y_B = self._batch(epoch, stage_step % plan.steps_per_epoch)
        data_wait_seconds = time.perf_counter() - started_at
        with self._looking(stage_step) as look:
            loss = self._replicas.gradients(
                x_BV, y_B, self._share, self._signals, self._loss_scale, look is not None
            )
        before_update(self._course)
        lr, momentum = lr_at(plan, stage_step), momentum_at(plan, epoch)
        self._trained.optimizer.step(lr, momentum, stage_step, epoch)
        self._trained.tally.add(loss)
        self._clock.count(data_wait_seconds)
        self.position = replace(self.position, stage_step=stage_step + 1)
        if look is not None:
            self._conclude(look)
        return self._signals.read()

    def _batch(self, epoch: int, step_of_epoch: int) -> tuple[Tensor, Tensor]:
        """This rank's part of a global batch."""
        if epoch != self._batches_epoch:
            self._batches_SB, self._batches_epoch = self._batches_of(epoch), epoch
            coming = (self._batches_SB[k] for k in range(step_of_epoch, len(self._batches_SB)))
            self._inputs.expect(coming, epoch)
        rows_B = self._batches_SB[step_of_epoch]
        return self._inputs.rows(rows_B, epoch), self._inputs.part.labels(rows_B)

    def _batches_of(self, epoch: int) -> Tensor:
        """This rank's parts of all global batches of an epoch, (S steps, B)."""
        plan, part = self._plan, self._part
        order_N = self._inputs.part.order(self._course.recipe.seed, plan.index, epoch)
        whole = order_N[: plan.steps_per_epoch * plan.batch_size].view(-1, plan.batch_size)
        return whole[:, part.start : part.stop]

    def _is_save_due(self) -> bool:
        """Whether this rank's clock wants a checkpoint; only rank 0's ever does."""
        every = self._course.recipe.checkpoint.every_seconds
        if every is None or not self._course.seat.is_first:
            return False
        return time.perf_counter() - self._saved_at >= every

    def _look_back(self) -> None:
        """Close the epoch, and evaluate, where it is time for either."""
        plan, stage_step = self._plan, self.position.stage_step
        if stage_step % plan.steps_per_epoch == 0:
            self._close_epoch()
        every = self._course.recipe.training.evaluate_every_steps or plan.steps_per_epoch
        if plan.is_finetuning and stage_step % every == 0:
            self._evaluate()

    def _close_epoch(self) -> None:
        loss = self._trained.tally.close_epoch(self._plan.steps_per_epoch)
        self._check(loss)
        is_first = self.position.stage_step == self._plan.steps_per_epoch
        self.position = replace(
            self.position,
            loss_first=loss if is_first else self.position.loss_first,
            loss_last=loss,
        )
        early_stop = self._plan.early_stop
        if not self._plan.is_finetuning and early_stop is not None:
            self.position = self.position.watched(loss, early_stop.min_improvement)

    def _evaluate(self) -> None:
        validation = self._course.data.validation
        if validation is None:
            return
        self._course.listener.phase("evaluate")
        with self._trained.optimizer.averaged():
            metrics = evaluate(self._course.net, validation, self._course.seat)
        self._metrics |= {f"validation_{name}": value for name, value in metrics.items()}
        step = self._plan.first_step + self.position.stage_step
        best = self._course.recipe.checkpoint.best
        self.position = self.position.evaluated(step, metrics, best)
        early_stop = self._course.recipe.training.early_stop
        if early_stop is not None:
            figure = metrics[early_stop.figure]
            self.position = self.position.watched(figure, early_stop.min_improvement)
        self._course.tell(
            Evaluated(stage_index=self._plan.index, step=step, split="validation", metrics=metrics)
        )
        self._course.listener.phase("train")

    def _report(self) -> None:
        loss = self._trained.tally.close_while()
        num_void, num_in_a_row = (0, 0) if self._guard is None else self._guard.counts()
        if num_void > 0:
            self._metrics["nonfinite_steps"] = float(num_void)
        line = self._clock.tell(self.position.stage_step, loss, self._metrics)
        self._notice(self._curve.look(line))
        if num_void > 0 and self._guard is not None and not self._guard.scales:
            self._notice([_skipped(self._plan.name, num_void)])
        self._metrics = {}
        if not self._goes_back:  # from which step decides on the weights, so no clock may
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
        return self._diagnostics.looking(self._loss_scale)

    def _conclude(self, look: Look) -> None:
        assert self._diagnostics is not None
        figures = self._diagnostics.metrics(look)
        self._metrics |= figures
        self._notice(self._diagnostics.verdicts(figures))

    def _notice(self, found: Iterable[Noticed]) -> None:
        """Tell what has not been told of this stage."""
        for noticed in found:
            if noticed.code not in self.position.noticed:
                self._course.tell(noticed)
                codes = (*self.position.noticed, noticed.code)
                self.position = replace(self.position, noticed=codes)


def _skipped(stage: str, num_void: int) -> Noticed:
    return Noticed(
        code="non_finite_skipped",
        sentence=f"{num_void} steps of {stage} were left out so far, because their gradient was "
        "not finite (training.on_non_finite: skip); lower the learning rate, or set "
        "training.clip_norm.",
    )
