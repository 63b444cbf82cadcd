"""Ranks killed at any moment: the job goes on from what was told, and ends with the same bits.

A moment is one of a rank's calls to its listener, counted: they come at the beginning and end of
set-up, stages, steps, evaluations and checkpoints, while the last checkpoint is still written in
the background. Nothing but what rank 0 told before is handed to the next attempt, as in a service.
"""

import multiprocessing
import os
import pickle
import random
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.training.attempts import (
    GANG_SECONDS_MAX,
    Recorder,
    launch,
    recipe,
    saved_tensors,
)
from workers.contract.launch import LaunchSpec
from workers.contract.recipe import Recipe
from workers.contract.reports import (
    CheckpointRef,
    CheckpointWritten,
    Evaluated,
    FactBody,
    Progress,
    StageEnded,
)
from workers.parallel.mesh import join, leave
from workers.training import progress
from workers.training.run import train

WORLD_SIZE = 2
DATA = {
    "source": "digits",
    "image": True,
    "validation_fraction": 0.1,
    "augment": {"crop_padding": 1, "noise": 0.1},
}
MODEL = {"kind": "mlp", "hidden": [12, 9], "activation": "sigmoid", "init": "xavier", "gain": 4.0}
PRETRAINING = {"method": "denoising_autoencoder", "epochs": 2, "batch_size": 101}
TRAINING = {"epochs": 3, "batch_size": 101, "optimizer": {"name": "adam", "lr": 0.01}}


def _recipe(parallel: str, readers: int) -> Recipe:
    return recipe(
        data={**DATA, "workers": readers},
        model={**MODEL, "dropout": 0.1},
        pretraining=PRETRAINING,
        training={**TRAINING, "parallel": parallel},
        checkpoint={"every_steps": 5, "best": {}},
    )


@dataclass
class Mortal(Recorder):
    """Writes what is told where it outlives the process, and kills it at a call."""

    told: Path | None = None  # of rank 0
    dies_at: int | None = None
    num_calls: int = 0

    def tell(self, fact: FactBody) -> None:
        self._live()
        if self.told is not None:
            with self.told.open("ab") as stream:
                pickle.dump(fact, stream)

    def advance(self, step: int) -> None:
        self._live()

    def phase(self, name: str) -> None:
        self._live()

    def _live(self) -> None:
        self.num_calls += 1
        if self.num_calls == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Story:
    """What a gang told until its end, and how its ranks ended."""

    facts: tuple[FactBody, ...]
    exit_codes: tuple[int | None, ...]
    num_calls: tuple[int, ...]  # of each rank to its listener; 0 of one that was killed

    @property
    def refs(self) -> list[CheckpointRef]:
        """The checkpoints, newest first."""
        return [fact.ref for fact in reversed(self.facts) if isinstance(fact, CheckpointWritten)]


def _rank(
    rank: int, spec: LaunchSpec, meeting: str, told: Path, victim: int, dies_at: int | None
) -> None:
    torch.set_num_threads(1)
    progress.INTERVAL_SECONDS = 0.0  # every step's loss is told
    seat = join(rank, WORLD_SIZE, meeting)
    mortal = Mortal(told=told if rank == 0 else None, dies_at=dies_at if rank == victim else None)
    train(spec, seat, mortal)
    told.with_suffix(f".{rank}").write_text(str(mortal.num_calls))
    leave()


def _gang(spec: LaunchSpec, folder: Path, victim: int = 0, dies_at: int | None = None) -> Story:
    """Run a gang to its end; with its first rank all die, as an agent sees to it."""
    name = uuid.uuid4()
    told = folder / f"{name}.told"
    told.touch()
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=_rank,
            args=(rank, spec, f"file://{folder}/{name}.meeting", told, victim, dies_at),
            daemon=False,  # a daemon may not have processes that read ahead
        )
        for rank in range(WORLD_SIZE)
    ]
    for process in processes:
        process.start()
    try:
        living = {process.sentinel: process for process in processes}
        while living:
            ended = wait(list(living), timeout=GANG_SECONDS_MAX)
            assert ended, "the gang hangs"
            for sentinel in ended:
                process = living.pop(int(str(sentinel)))
                process.join()
                if process.exitcode != 0:
                    for other in living.values():
                        other.kill()
    finally:
        for process in processes:
            process.kill()
    calls = [told.with_suffix(f".{rank}") for rank in range(WORLD_SIZE)]
    return Story(
        facts=tuple(_pickled(told)),
        exit_codes=tuple(process.exitcode for process in processes),
        num_calls=tuple(int(file.read_text()) if file.exists() else 0 for file in calls),
    )


def _pickled(path: Path) -> Iterator[FactBody]:
    with path.open("rb") as stream:
        while True:
            try:
                yield pickle.load(stream)
            except EOFError:
                return
            except pickle.UnpicklingError:  # cut off in the middle: it was not told
                return


def _figures(facts: tuple[FactBody, ...]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for fact in facts:
        if isinstance(fact, Progress):
            figures[f"loss of step {fact.step}"] = (fact.loss, fact.lr, fact.samples)
        elif isinstance(fact, Evaluated):
            figures[f"{fact.split} at {fact.step}"] = fact.metrics
        elif isinstance(fact, StageEnded):
            figures[f"end of {fact.name}"] = (fact.steps, fact.loss_first, fact.loss_last)
    return figures


def _check(told: Recipe, folder: Path, num_kills: int, seed: int) -> None:
    whole = _gang(launch(told, folder / "whole", world_size=WORLD_SIZE), folder)
    assert whole.exit_codes == (0, 0)
    expected = _figures(whole.facts)
    assert len(expected) > 60

    chance = random.Random(seed)
    refs: list[CheckpointRef] = []
    storage = folder / "killed"
    for k in range(num_kills):
        spec = launch(told, storage, k + 1, refs, WORLD_SIZE)
        victim = chance.randrange(WORLD_SIZE)
        dies_at = chance.randrange(1, 2 * whole.num_calls[victim] // (num_kills + 1))
        killed = _gang(spec, folder, victim, dies_at)
        assert killed.exit_codes[victim] == -signal.SIGKILL, "the fault did not fire"
        refs = [*killed.refs, *refs]
        figures = _figures(killed.facts)
        assert {name: expected[name] for name in figures} == figures
    last = _gang(launch(told, storage, num_kills + 1, refs, WORLD_SIZE), folder)
    assert last.exit_codes == (0, 0)
    figures = _figures(last.facts)
    assert {name: expected[name] for name in figures} == figures
    there = saved_tensors(folder / "whole", whole.refs[0])
    again = saved_tensors(storage, last.refs[0])
    assert there.keys() == again.keys()
    assert [name for name in there if not torch.equal(there[name], again[name])] == []


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_kill_changes_no_bit(parallel: str, tmp_path: Path) -> None:
    _check(_recipe(parallel, readers=0), tmp_path, num_kills=1, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ten_kills_change_no_bit_while_processes_read_ahead(parallel: str, tmp_path: Path) -> None:
    _check(_recipe(parallel, readers=2), tmp_path, num_kills=10, seed=0)
