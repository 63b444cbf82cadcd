"""Runs attempts of training for tests: in this process, or as a gang of spawned ranks over gloo."""

import multiprocessing
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from workers.contract.launch import LaunchSpec, RankPlacement
from workers.contract.outcome import Outcome, StopReason
from workers.contract.recipe import Recipe
from workers.contract.reports import (
    CheckpointRef,
    CheckpointWritten,
    FactBody,
    ProfileOrder,
    StopOrder,
)
from workers.contract.wire import JobId
from workers.parallel.mesh import Seat, join, leave
from workers.training import progress
from workers.training.run import train

GANG_SECONDS_MAX = 120.0  # a gang that hangs fails its test, and is ended

DIGITS = {"source": "digits", "test_fraction": 0.2}


def recipe(**parts: Any) -> Recipe:
    """A recipe from plain text parts, on the digits unless told otherwise."""
    return Recipe.model_validate({"data": DIGITS, **parts})


def launch(
    recipe: Recipe,
    storage: Path,
    attempt: int = 1,
    resume: Iterable[CheckpointRef] = (),
    world_size: int = 1,
) -> LaunchSpec:
    """An attempt of one job with its storage in a folder."""
    return LaunchSpec(
        job_id=JobId("job"),
        attempt=attempt,
        name="test",
        recipe=recipe,
        ranks=tuple(
            RankPlacement(rank=rank, node_id="n", cpus=1, gpus=0) for rank in range(world_size)
        ),
        storage_url=str(storage),
        resume=tuple(resume),
    )


@dataclass
class Recorder:
    """A listener that keeps everything, and gives the order to stop at a step."""

    stop_at: int | None = None
    profile: ProfileOrder | None = None
    facts: list[FactBody] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    def tell(self, fact: FactBody) -> None:
        self.facts.append(fact)

    def advance(self, step: int) -> None:
        self.steps.append(step)

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def stop_order(self) -> StopOrder | None:
        done = self.steps[-1] if self.steps else 0
        if self.stop_at is None or done + 1 < self.stop_at:
            return None
        return StopOrder(reason=StopReason.PREEMPT, grace_seconds=60.0)

    def profile_order(self) -> ProfileOrder | None:
        return self.profile

    def of(self, kind: type[Any]) -> list[Any]:
        """The facts of one kind, in order."""
        return [fact for fact in self.facts if isinstance(fact, kind)]

    @property
    def refs(self) -> list[CheckpointRef]:
        """The checkpoints, newest first."""
        return [fact.ref for fact in reversed(self.of(CheckpointWritten))]


@dataclass
class Attempt:
    """How an attempt went, as rank 0 saw it, and how far every rank came."""

    outcome: Outcome
    recorder: Recorder
    rank_steps: list[int]


@dataclass(frozen=True)
class Run:
    """An attempt to be made; only `stop_rank` gets the order to stop."""

    spec: LaunchSpec
    stop_at: int | None = None
    stop_rank: int = 0

    def on(self, seat: Seat) -> tuple[Outcome, Recorder]:
        """Make it, as one rank."""
        recorder = Recorder(self.stop_at if seat.rank == self.stop_rank else None)
        return train(self.spec, seat, recorder), recorder


def run_alone(spec: LaunchSpec, stop_at: int | None = None) -> Attempt:
    """Make an attempt with one worker, in this process and without a process group."""
    outcome, recorder = Run(spec, stop_at).on(Seat(0, 1, torch.device("cpu")))
    return Attempt(outcome, recorder, recorder.steps[-1:])


def run_gang(
    runs: Sequence[Run], folder: Path, world_size: int = 2, tells_every_step: bool = False
) -> list[Attempt]:
    """Make attempts one after the other with one gang of new processes."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    meeting = f"file://{folder}/meeting-{uuid.uuid4()}"
    processes = [
        context.Process(
            target=_rank,
            args=(rank, world_size, runs, meeting, tells_every_step, answers),
            daemon=False,  # a rank may have processes of its own; it is ended below
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        told = sorted((answers.get(timeout=GANG_SECONDS_MAX) for _ in processes), key=_first)
        for process in processes:
            process.join(timeout=GANG_SECONDS_MAX)
    finally:
        for process in processes:
            process.kill()
    for _, answer in told:
        if isinstance(answer, Exception):
            raise answer
    by_run = zip(*(answer for _, answer in told), strict=True)
    return [
        Attempt(ranks[0][0], ranks[0][1], [recorder.steps[-1] for _, recorder in ranks])
        for ranks in by_run
    ]


def _first(answer: tuple[int, Any]) -> int:
    return answer[0]


def _rank(
    rank: int,
    world_size: int,
    runs: Sequence[Run],
    meeting: str,
    tells_every_step: bool,
    answers: Any,
) -> None:
    torch.set_num_threads(1)
    if tells_every_step:
        progress.INTERVAL_SECONDS = 0.0
    seat = join(rank, world_size, meeting)
    answer: list[tuple[Outcome, Recorder]] | Exception
    try:
        answer = [run.on(seat) for run in runs]
    except Exception as error:  # noqa: BLE001  # handed to the test, which raises it
        answer = error
    answers.put((rank, answer))
    leave()


def saved_tensors(storage: Path, ref: CheckpointRef) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by name, those of each rank too; read without our reader."""
    folder = storage / ref.path
    reader = FileSystemReader(str(folder))
    known = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in known.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    assert len(tensors) == len(known)
    load(tensors, storage_reader=reader, no_dist=True)
    for file in sorted(folder.glob("rank-*.pt")):
        own = torch.load(file, weights_only=True)
        tensors.update({f"{file.name}/{name}": tensor for name, tensor in own.items()})
    return tensors
