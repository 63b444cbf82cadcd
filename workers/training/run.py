"""The story of one attempt: prepare, walk the stages, evaluate once on the test part.

Read this first, then stages/denoising.py for what a stage trains, and loop.py for how.
"""

import time

import torch

from workers.checkpoint.background import BackgroundSaves
from workers.checkpoint.writer import CheckpointWriter
from workers.contract.launch import LaunchSpec
from workers.contract.outcome import Outcome, Result, StopReason
from workers.contract.reports import CheckpointRef, Evaluated, StageEnded, StageStarted
from workers.data.dataset import load_dataset
from workers.data.seeds import derived_seed
from workers.data.sources import Places
from workers.models.catalog import build_net, takes_vectors
from workers.models.layered import seeded
from workers.parallel.layout import lay_out
from workers.parallel.mesh import Seat
from workers.stages.catalog import StagePlan, build_objective, plan_stages
from workers.stages.handover import Inputs
from workers.training.code import use_code
from workers.training.course import Course
from workers.training.diagnostics import collapsed
from workers.training.evaluate import evaluate
from workers.training.keep import Position, Trained, find, landing, restore_net, restore_stage
from workers.training.listener import Listener
from workers.training.loop import StageLoop
from workers.training.optimizer import Optimizer
from workers.training.tally import Tally


def train(launch: LaunchSpec, seat: Seat, listener: Listener) -> Outcome:
    """Train one attempt to its end, or until it is told to stop; every rank of the gang calls it.

    The process is the attempt's own: its threads, generators and float modes are set.

    Returns:
        SUCCEEDED with the final metrics, or STOPPED with the reason, a checkpoint written. All
        metrics named error or accuracy are in %, losses in nats.

    Raises:
        ConfigFailure: the recipe does not fit the data, or the data is not there.
        StorageFailure: a checkpoint or the data can't be read or written.
        NonFiniteFailure: the loss or a weight became NaN or infinite.
    """
    started_at = time.perf_counter()
    listener.phase("setup")
    _set_up_process(launch, seat)
    course = _prepare(launch, seat, listener)
    ref, position = find(course)
    if ref is not None:
        restore_net(course, ref)
    walk = StageWalk(course, ref, position)
    stop: StopReason | None = None
    with landing(course):
        while walk.has_next() and stop is None:
            stop = walk.train_next()
    if walk.has_next():
        return Outcome(
            result=Result.STOPPED,
            stop_reason=stop,
            metrics=_validation_metrics(walk.position),
            seconds=time.perf_counter() - started_at,
        )
    # Told to stop after the last step? It ended before it heard.
    return Outcome(
        result=Result.SUCCEEDED,
        metrics={**_validation_metrics(walk.position), **_test_metrics(course)},
        seconds=time.perf_counter() - started_at,
    )


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
        self._inputs = Inputs(course.data.train)
        for plan in course.plans[: position.stage_index]:
            self._inputs = self._inputs_above(plan)

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
        inputs = self._inputs if plan.layer is not None else Inputs(course.data.train)
        objective = build_objective(
            plan, course.recipe, course.net, course.data.num_classes, inputs
        )
        objective.train()
        training = course.recipe.training if plan.layer is None else None
        if training is not None:
            lay_out(course.net, training, course.seat)
        parameters = dict(objective.named_parameters())
        optimizer = Optimizer(parameters, plan.optimizer, training, course.net.names)
        trained = Trained(objective, optimizer, Tally(course.seat))
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
        loop = StageLoop(course, plan, inputs, trained, self.position)
        stop = loop.run()
        self.position = loop.position
        return stop

    def _end(self, plan: StagePlan) -> None:
        metrics: dict[str, float] = {}
        if plan.layer is not None:
            self._inputs = self._inputs_above(plan)
            metrics["code_sd"] = self._inputs.spread()
            noticed = collapsed(self._course.net.names[plan.layer], metrics["code_sd"])
            if noticed is not None:
                self._course.tell(noticed)
        self._course.tell(
            StageEnded(
                index=plan.index,
                name=plan.name,
                kind=plan.kind,
                epochs=plan.epochs,
                steps=plan.steps,
                loss_first=self.position.loss_first,
                loss_last=self.position.loss_last,
                seconds=self.position.seconds,
                metrics=metrics,
            )
        )

    def _inputs_above(self, plan: StagePlan) -> Inputs:
        """The next layer's inputs, built from the present ones."""
        pretraining = self._course.recipe.pretraining
        assert pretraining is not None
        assert plan.layer is not None
        layer = self._course.net.layer(plan.layer)
        return self._inputs.above(layer, keep=pretraining.cache == "memory")


def _set_up_process(launch: LaunchSpec, seat: Seat) -> None:
    torch.set_num_threads(max(1, launch.ranks[seat.rank].cpus))
    # Weights that fade away become denormal numbers, with which a CPU is a hundred times slower.
    torch.set_flush_denormal(True)


def _prepare(launch: LaunchSpec, seat: Seat, listener: Listener) -> Course:
    recipe = launch.recipe
    if recipe.code is not None:
        use_code(recipe.code, launch.storage_url)
    places = Places(launch.storage_url, launch.data_roots)
    data = load_dataset(recipe.data, places).to(seat.device)
    data = data.flat() if takes_vectors(recipe.model) else data
    generator = seeded(derived_seed(recipe.seed, "net"))
    net = build_net(recipe.model, data.shape, data.num_classes, generator)
    return Course(
        launch=launch,
        seat=seat,
        listener=listener,
        data=data,
        net=net.to(seat.device),
        plans=plan_stages(recipe, len(data.train), seat.world_size),
        saves=BackgroundSaves(
            CheckpointWriter(
                launch.storage_url, launch.job_id, launch.attempt, seat.rank, seat.world_size
            )
        ),
    )


def _validation_metrics(position: Position) -> dict[str, float]:
    metrics = {f"validation_{name}": value for name, value in position.validation.items()}
    if position.best_validation_error is not None:
        metrics["best_validation_error"] = position.best_validation_error
    return metrics


def _test_metrics(course: Course) -> dict[str, float]:
    """Evaluate on the test part, the only time in a job; {} where there is none."""
    if course.data.test is None:
        return {}
    course.listener.phase("evaluate")
    metrics = evaluate(course.net, course.data.test, course.seat)
    plan = course.plans[-1]
    step = plan.first_step + plan.steps
    course.tell(Evaluated(stage_index=plan.index, step=step, split="test", metrics=metrics))
    return {f"test_{name}": value for name, value in metrics.items()}
