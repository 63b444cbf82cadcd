"""Walks the stages of a job: each trains a layer and hands its codes on; the last trains all."""

import torch

from workers.contract.outcome import NonFiniteFailure, StopReason
from workers.contract.reports import CheckpointRef, Noticed, StageEnded, StageStarted
from workers.data.seeds import derived_seed
from workers.optim.optimizer import Optimizer
from workers.parallel.layout import lay_out
from workers.stages.catalog import StagePlan, build_objective, first_inputs
from workers.stages.handover import Inputs, NotKept
from workers.telemetry.diagnostics import collapsed
from workers.telemetry.utilization import Utilization
from workers.training.contents import Trained
from workers.training.course import Course
from workers.training.loop import StageLoop
from workers.training.position import Position
from workers.training.resuming import restore_stage
from workers.training.rollback import rolled_back
from workers.training.tally import Tally


class StageWalk:
    """Walks the stages in order, from where the last checkpoint stands.

    Args:
        course: the attempt; its net is that of the checkpoint.
        ref: the checkpoint, None at the beginning.
        position: where it stands.
    """

    def __init__(self, course: Course, ref: CheckpointRef | None, position: Position) -> None:
        self._course = course
        self._resume_from = ref if not position.is_stage_over else None
        self.position = position
        self._told: set[str] = set()
        self._inputs = first_inputs(course.recipe, course.pretraining_part)
        if position.stage_index < len(course.plans) - 1:  # fine-tuning looks at no codes
            for plan in course.plans[: position.stage_index]:
                for layer in plan.layers:
                    self._inputs = self._inputs_above(layer)

    def has_next(self) -> bool:
        """Whether a stage is left."""
        return self.position.stage_index < len(self._course.plans)

    def train_next(self) -> StopReason | None:
        """Train the next stage, or the rest of it, and tell of it; return why it was stopped."""
        plan = self._course.plans[self.position.stage_index]
        stop: StopReason | None = None
        if not self.position.is_stage_over:  # else only its end was not told
            stop = self._train(plan)
        if self.position.is_stage_over:
            self._end(plan)
            self.position = self.position.next_stage()
        return stop

    def _train(self, plan: StagePlan) -> StopReason | None:
        course = self._course
        if plan.is_finetuning:
            self._inputs = Inputs(course.data.train)  # and lets go of the last layer's codes
        inputs = self._inputs
        objective = build_objective(
            plan, course.recipe, course.net, course.data.num_classes, inputs
        )
        objective.train()
        training = course.recipe.training if plan.is_finetuning else None
        utilization: Utilization | None = None
        if training is not None:
            if course.seat.is_first:  # while the net is still whole
                utilization = Utilization(course.net, course.data.shape, training, course.seat)
            lay_out(course.net, training, course.seat)
        parameters = dict(objective.named_parameters())
        optimizer = Optimizer(parameters, plan.optimizer, training, course.net.names)
        leaves_out = training is not None and training.on_non_finite == "skip"
        trained = Trained(objective, optimizer, Tally(course.seat, leaves_out=leaves_out))
        torch.manual_seed(derived_seed(course.recipe.seed, "rank", plan.index, course.seat.rank))
        if self._resume_from is not None:
            restore_stage(course, self._resume_from, trained)
            self._resume_from = None
        course.tell(
            StageStarted(
                index=plan.index,
                count=plan.count,
                name=plan.name,
                kind=plan.kind,
                epochs=plan.epochs,
                steps_per_epoch=plan.steps_per_epoch,
            )
        )
        loop = StageLoop(course, plan, inputs, trained, self.position, utilization)
        while True:
            try:
                stop = loop.run()
            except NonFiniteFailure as failure:
                if course.recipe.training.on_non_finite != "rollback":
                    raise
                failed_at = loop.position
                loop.go_on_at(rolled_back(course, plan, trained, failed_at, failure))
            else:
                self.position = loop.position
                return stop

    def _end(self, plan: StagePlan) -> None:
        metrics: dict[str, float] = {}
        for layer in plan.layers:
            self._inputs = self._inputs_above(layer)
            code_sd = self._inputs.spread()
            metrics["code_sd"] = min(code_sd, metrics.get("code_sd", code_sd))
            noticed = collapsed(self._course.net.names[layer], code_sd)
            if noticed is not None:
                self._course.tell(noticed)
        self._course.tell(
            StageEnded(
                index=plan.index,
                name=plan.name,
                kind=plan.kind,
                epochs=self.position.stage_step // plan.steps_per_epoch,
                steps=self.position.stage_step,
                loss_first=self.position.loss_first,
                loss_last=self.position.loss_last,
                seconds=self.position.seconds,
                metrics=metrics,
            )
        )

    def _inputs_above(self, index: int) -> Inputs:
        """The next layer's inputs, built from the present ones."""
        course, pretraining = self._course, self._course.recipe.pretraining
        assert pretraining is not None
        layer = course.net.layer(index)
        cache = pretraining.cache
        if cache != "none" and self._inputs.part.changes:
            self._tell_once(
                "codes_not_kept",
                "The samples look otherwise in each epoch (data.augment), so pretraining computes "
                "the codes of the layers below anew for every batch.",
            )
            cache = "none"
        try:
            return self._inputs.above(layer, cache)
        except NotKept as error:
            self._tell_once("codes_not_kept", f"{error}; they are computed anew for every batch.")
            return self._inputs.above(layer, "none")

    def _tell_once(self, code: str, sentence: str) -> None:
        if code not in self._told:
            self._told.add(code)
            self._course.tell(Noticed(code=code, sentence=sentence))
