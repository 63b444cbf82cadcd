"""The story of one attempt: prepare, walk the stages, evaluate once on the test part.

Read this first, then walk.py, stages/denoising.py for what a stage trains, and loop.py for how.
"""

import time

import torch

from workers.checkpoint.background import BackgroundSaves
from workers.checkpoint.writer import CheckpointWriter
from workers.contract.data_spec import DataSpec
from workers.contract.launch import LaunchSpec
from workers.contract.outcome import ConfigFailure, Outcome, Result, StopReason
from workers.contract.reports import Evaluated
from workers.data.dataset import Dataset, load_dataset
from workers.data.seeds import derived_seed
from workers.data.sources import Places
from workers.models.catalog import build_net, takes_vectors
from workers.models.code import use_code
from workers.models.layered import seeded
from workers.parallel.mesh import Seat
from workers.stages.catalog import plan_stages
from workers.telemetry.listener import Listener
from workers.telemetry.profiling import Profiling
from workers.training.course import Course
from workers.training.evaluate import evaluate
from workers.training.position import Position
from workers.training.resuming import find, restore_net
from workers.training.saving import landing
from workers.training.walk import StageWalk


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
    if launch.recipe.training.tensorboard and seat.is_first:
        from workers.telemetry.tensorboard import writing_curves

        listener = writing_curves(launch, listener)
    _set_up_process(launch, seat)
    course = _prepare(launch, seat, listener)
    try:
        outcome = _walked(course)
    finally:
        course.close()
    return outcome.model_copy(update={"seconds": time.perf_counter() - started_at})


def _walked(course: Course) -> Outcome:
    """All stages from the last checkpoint on, and the test at the end."""
    ref, position = find(course)
    if ref is not None:
        restore_net(course, ref)
    walk = StageWalk(course, ref, position)
    stop: StopReason | None = None
    with landing(course):
        while walk.has_next() and stop is None:
            stop = walk.train_next()
    metrics = _validation_metrics(walk.position)
    if walk.has_next():
        return Outcome(result=Result.STOPPED, stop_reason=stop, metrics=metrics)
    # Told to stop after the last step? It ended before it heard.
    return Outcome(result=Result.SUCCEEDED, metrics={**metrics, **_test_metrics(course)})


def _set_up_process(launch: LaunchSpec, seat: Seat) -> None:
    torch.set_num_threads(max(1, launch.ranks[seat.rank].cpus))
    # Weights that fade away become denormal numbers, with which a CPU is a hundred times slower.
    torch.set_flush_denormal(True)


def _prepare(launch: LaunchSpec, seat: Seat, listener: Listener) -> Course:
    recipe = launch.recipe
    if recipe.code is not None:
        use_code(recipe.code, launch.storage_url)
    data = _data(recipe.data, launch, seat)
    if data.validation is None and recipe.watches_validation is not None:
        raise ConfigFailure(
            f"{recipe.watches_validation}: needs a validation part, and the data has none; add a "
            "folder `validation` to it"
        )
    pretraining_part = data.train
    if recipe.pretraining is not None and recipe.pretraining.data is not None:
        pretraining_part = _data(recipe.pretraining.data, launch, seat).train
        if pretraining_part.shape != data.shape:
            raise ConfigFailure(
                f"pretraining.data: its samples have the shape {pretraining_part.shape}, those of "
                f"data {data.shape}; they must agree"
            )
    generator = seeded(derived_seed(recipe.seed, "net"))
    net = build_net(recipe.model, data.shape, data.num_classes, generator)
    return Course(
        launch=launch,
        seat=seat,
        listener=listener,
        data=data,
        pretraining_part=pretraining_part,
        net=net.to(seat.device),
        plans=plan_stages(recipe, len(pretraining_part), len(data.train), seat.world_size),
        saves=BackgroundSaves(
            CheckpointWriter(
                launch.storage_url, launch.job_id, launch.attempt, seat.rank, seat.world_size
            )
        ),
        profiling=Profiling(launch, listener),
    )


def _data(spec: DataSpec, launch: LaunchSpec, seat: Seat) -> Dataset:
    places = Places(launch.storage_url, launch.data_roots)
    data = load_dataset(spec, places, launch.recipe.seed).to(seat.device)
    return data.flat() if takes_vectors(launch.recipe.model) else data


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
