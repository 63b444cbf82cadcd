"""Ranks killed at any moment: the job goes on from what was told, and ends with the same bits.

A moment is a place that a rank comes by: a call to its listener, a file of a checkpoint that was
opened or filled, a batch that was evaluated. An undisturbed run records its moments; those at which
a rank dies are drawn from them, of every kind. Nothing but what rank 0 told before is handed to the
next attempt, as in a service.
"""

import multiprocessing
import os
import pickle
import random
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.workers.training.attempts import (
    GANG_SECONDS_MAX,
    Recorder,
    launch,
    recipe,
    saved_tensors,
)
from workers.checkpoint.folder import Folder
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
from workers.training import evaluate, progress
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
STEPS_PER_EPOCH = 12  # 1,293 samples in batches of 101
PRETRAINING_STEPS = 2 * 2 * STEPS_PER_EPOCH
STEPS = PRETRAINING_STEPS + 3 * STEPS_PER_EPOCH


class Kind(StrEnum):
    """What a rank is doing at a moment."""

    SETUP = "before anything is loaded"
    PRETRAINING = "after a step of a pretraining stage"
    FINETUNING = "after a step of the fine-tuning"
    EPOCH_END = "between two epochs"
    STAGE_END = "between two stages"
    EVALUATION = "within an evaluation"
    WRITE = "while a file of a checkpoint is written"


TEN = (*Kind, Kind.WRITE, Kind.EVALUATION, Kind.FINETUNING)


@dataclass(frozen=True)
class Moment:
    """Where a rank is, so that the same rank comes by again in another attempt."""

    kind: Kind
    step: int  # of the job; of a file, that of its checkpoint
    nth: int  # of this kind at this step, from 0


@dataclass
class Mortal(Recorder):
    """Writes what is told where it outlives the process, and kills it at a moment."""

    told: Path = Path()
    dies_at: Moment | None = None
    moments: list[Moment] = field(default_factory=list)
    _counts: Counter[tuple[Kind, int]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # files have their own thread

    def tell(self, fact: FactBody) -> None:
        if isinstance(fact, StageEnded):
            self.come_by(Kind.STAGE_END, self.step)
        with self.told.open("ab") as stream:
            pickle.dump(fact, stream)

    def advance(self, step: int) -> None:
        self.steps.append(step)
        if step % STEPS_PER_EPOCH == 0:
            self.come_by(Kind.EPOCH_END, step)
        else:
            self.come_by(Kind.PRETRAINING if step < PRETRAINING_STEPS else Kind.FINETUNING, step)

    def phase(self, name: str) -> None:
        if name == "setup":
            self.come_by(Kind.SETUP, 0)

    @property
    def step(self) -> int:
        """Steps of the job that this attempt has come to."""
        return self.steps[-1] if self.steps else 0

    def come_by(self, kind: Kind, step: int) -> None:
        """Record a moment, and die if it is the one."""
        with self._lock:
            moment = Moment(kind, step, self._counts[kind, step])
            self._counts[kind, step] += 1
            self.moments.append(moment)
            if moment == self.dies_at:
                _last_words(self.told).write_bytes(pickle.dumps(moment))
                os.kill(os.getpid(), signal.SIGKILL)


def _watch(mortal: Mortal) -> None:
    """Let the mortal of this process come by where no listener is called."""
    write = Folder.writing

    @contextmanager
    def writing(folder: Folder, name: str) -> Iterator[IO[bytes]]:
        step = int(folder.path.rsplit("-", 2)[1])
        with write(folder, name) as stream:
            mortal.come_by(Kind.WRITE, step)  # the file is there, and empty
            yield stream
            mortal.come_by(Kind.WRITE, step)  # its bytes may lie in any buffer

    def evaluated(*args: Any, **options: Any) -> torch.Tensor:
        mortal.come_by(Kind.EVALUATION, mortal.step)
        return cross_entropy(*args, **options)

    patch = pytest.MonkeyPatch()  # for good: the process is this test's own
    patch.setattr(Folder, "writing", writing)
    patch.setattr(evaluate, "cross_entropy", evaluated)


def _recipe(parallel: str, readers: int) -> Recipe:
    return recipe(
        data={**DATA, "workers": readers},
        model={**MODEL, "dropout": 0.1},
        pretraining=PRETRAINING,
        training={**TRAINING, "parallel": parallel},
        checkpoint={"every_steps": 5, "best": {}},
    )


@dataclass(frozen=True)
class Story:
    """What a gang told until its end, and how its ranks ended."""

    facts: tuple[FactBody, ...]
    exit_codes: tuple[int | None, ...]
    moments: tuple[list[Moment], ...]  # of each rank; none of one that was killed
    last_words: Moment | None  # where one killed itself

    @property
    def refs(self) -> list[CheckpointRef]:
        """The checkpoints, newest first."""
        return [fact.ref for fact in reversed(self.facts) if isinstance(fact, CheckpointWritten)]


def _last_words(told: Path) -> Path:
    return told.with_suffix(".death")


def _rank(
    rank: int, spec: LaunchSpec, meeting: str, told: Path, victim: int, dies_at: Moment | None
) -> None:
    torch.set_num_threads(1)
    progress.INTERVAL_SECONDS = 0.0  # every step's loss is told
    mortal = Mortal(told=told, dies_at=dies_at if rank == victim else None)
    _watch(mortal)
    seat = join(rank, WORLD_SIZE, meeting)
    train(spec, seat, mortal)
    told.with_suffix(f".{rank}").write_bytes(pickle.dumps(mortal.moments))
    leave()
    # Of processes that used FSDP over gloo, torch aborts one in twenty while the interpreter ends.
    os._exit(0)


def _gang(spec: LaunchSpec, folder: Path, victim: int = 0, dies_at: Moment | None = None) -> Story:
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
    moments = [told.with_suffix(f".{rank}") for rank in range(WORLD_SIZE)]
    return Story(
        facts=tuple(_pickled(told)),
        exit_codes=tuple(process.exitcode for process in processes),
        moments=tuple(pickle.loads(at.read_bytes()) if at.exists() else [] for at in moments),
        last_words=next(_pickled(_last_words(told)), None) if _last_words(told).exists() else None,
    )


def _pickled(path: Path) -> Iterator[Any]:
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


def _drawn(whole: Story, kinds: Sequence[Kind], seed: int) -> list[tuple[int, Moment]]:
    """One moment of each kind with its victim, each at a later step than the one before.

    So every attempt comes by its moment: a checkpoint of that step can't stand yet. Setting up has
    no step, and may be anywhere between them.
    """
    chance = random.Random(seed)
    drawn: dict[int, tuple[int, Moment]] = {}
    for kind in kinds:
        there = [
            (rank, moment)
            for rank, moments in enumerate(whole.moments)
            for moment in moments
            if moment.kind is kind and moment.step not in drawn
            if kind is not Kind.STAGE_END or moment.step < STEPS
        ]
        victim, moment = chance.choice(there)
        drawn[moment.step] = (victim, moment)
    setup = drawn.pop(0, None)
    in_order = [drawn[step] for step in sorted(drawn)]
    if setup is not None:
        in_order.insert(chance.randrange(1, len(in_order)), setup)
    return in_order


def _check(told: Recipe, folder: Path, kinds: Sequence[Kind], seed: int) -> None:
    whole = _gang(launch(told, folder / "whole", world_size=WORLD_SIZE), folder)
    assert whole.exit_codes == (0, 0)
    expected = _figures(whole.facts)
    assert len(expected) > STEPS

    refs: list[CheckpointRef] = []
    storage = folder / "killed"
    hit = Counter[Kind]()
    for k, (victim, moment) in enumerate(_drawn(whole, kinds, seed)):
        spec = launch(told, storage, k + 1, refs, WORLD_SIZE)
        killed = _gang(spec, folder, victim, moment)
        assert killed.exit_codes[victim] == -signal.SIGKILL
        assert killed.last_words == moment, "the fault did not fire"
        hit[moment.kind] += 1
        refs = [*killed.refs, *refs]
        if moment.kind is Kind.WRITE:  # what was under way is there, and nobody was told of it
            begun = {path.name for path in storage.glob("jobs/job/checkpoints/*")}
            assert begun - {ref.path.rpartition("/")[2] for ref in refs}
        figures = _figures(killed.facts)
        assert {name: expected[name] for name in figures} == figures
    assert hit == Counter(kinds)
    last = _gang(launch(told, storage, len(kinds) + 1, refs, WORLD_SIZE), folder)
    assert last.exit_codes == (0, 0)
    figures = _figures(last.facts)
    assert {name: expected[name] for name in figures} == figures
    there = saved_tensors(folder / "whole", whole.refs[0])
    again = saved_tensors(storage, [*last.refs, *refs][0])  # the last may only have had to test
    assert there.keys() == again.keys()
    assert [name for name in there if not torch.equal(there[name], again[name])] == []


@pytest.mark.parametrize(("parallel", "kind"), [("ddp", Kind.WRITE), ("fsdp", Kind.EVALUATION)])
def test_a_kill_changes_no_bit(parallel: str, kind: Kind, tmp_path: Path) -> None:
    _check(_recipe(parallel, readers=0), tmp_path, [kind], seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ten_kills_change_no_bit_while_processes_read_ahead(parallel: str, tmp_path: Path) -> None:
    assert set(TEN) == set(Kind)
    _check(_recipe(parallel, readers=2), tmp_path, TEN, seed=0)
