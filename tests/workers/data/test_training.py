"""Training on augmented images that are read ahead: interrupted or not, the same bits."""

import sys
import types
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.clock import ManualClock
from tests.workers.training.attempts import (
    Attempt,
    Recorder,
    Run,
    launch,
    recipe,
    run_alone,
    run_gang,
    saved_tensors,
)
from tests.workers.training.noting import Noting, global_batches
from workers.contract.launch import LaunchSpec
from workers.contract.outcome import Result
from workers.contract.recipe import Recipe
from workers.contract.reports import Noticed, Progress
from workers.data.shards import write_shards
from workers.parallel.mesh import Seat
from workers.training import progress

AUGMENT = {"crop_padding": 1, "flip": 0.5, "noise": 0.1, "cutout": 2}
DATA = {
    "source": "digits",
    "image": True,
    "augment": AUGMENT,
    "normalize": {"mean": [0.3], "std": [0.35]},
}
STEPS_PER_EPOCH = 14  # 1,437 samples in batches of 101
STEPS = 2 * STEPS_PER_EPOCH


def _recipe(workers: int = 0, **parts: Any) -> Recipe:
    return recipe(
        data=DATA | {"workers": workers},
        model={"kind": "mlp", "hidden": [16, 16], "activation": "relu", "init": "he"},
        training={
            "epochs": 2,
            "batch_size": 101,
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        },
        checkpoint={"every_steps": 1_000_000},
        seed=5,
        **parts,
    )


def _losses(*attempts: Attempt) -> dict[int, float]:
    """The loss of every step."""
    told = [fact for attempt in attempts for fact in attempt.recorder.of(Progress)]
    return {fact.step: fact.loss for fact in told}


def test_two_ranks_that_read_ahead_go_on_in_mid_epoch_to_the_same_bits(tmp_path: Path) -> None:
    spec = _recipe(workers=2)
    folders = {name: tmp_path / name for name in ("whole", "cut", "in place")}
    cut_at = STEPS_PER_EPOCH + 5
    whole, in_place, stopped = run_gang(
        [
            Run(launch(spec, folders["whole"], world_size=2)),
            Run(launch(_recipe(), folders["in place"], world_size=2)),
            Run(launch(spec, folders["cut"], world_size=2), cut_at, stop_rank=1),
        ],
        tmp_path,
        tells_every_step=True,
    )
    assert stopped.rank_steps == [cut_at] * 2
    again = launch(spec, folders["cut"], 2, stopped.recorder.refs, 2)
    (resumed,) = run_gang([Run(again)], tmp_path, tells_every_step=True)
    assert resumed.recorder.steps[0] == cut_at + 1
    assert list(_losses(whole)) == list(range(1, STEPS + 1))
    assert _losses(stopped, resumed) == _losses(whole) == _losses(in_place)
    assert resumed.outcome.metrics == whole.outcome.metrics == in_place.outcome.metrics
    weights = saved_tensors(folders["whole"], whole.recorder.refs[0])
    for attempt, name in ((resumed, "cut"), (in_place, "in place")):
        same = saved_tensors(folders[name], attempt.recorder.refs[0])
        assert weights.keys() == same.keys()
        assert [key for key in weights if not torch.equal(weights[key], same[key])] == []


def test_a_stream_is_seen_alike_by_other_numbers_of_workers_and_of_processes(
    tmp_path: Path,
) -> None:
    """Stopped in mid-epoch twice: the same samples with the same bits, each once in an epoch."""
    num, batch_size, epochs = 240, 20, 2
    x = np.random.default_rng(0).integers(0, 256, (num, 1, 6, 6), np.uint8)
    write_shards([(x, np.arange(num) % 3)], f"{tmp_path}/stream/train", shard_bytes=36 * 17)

    def spec(folder: str, world_size: int, processes: int, *before: Attempt) -> LaunchSpec:
        stream = {"source": "stream", "path": f"{tmp_path}/stream", "workers": processes}
        learned = recipe(
            data=stream | {"augment": AUGMENT},
            model={"kind": "mlp", "hidden": [8]},
            training={"epochs": epochs, "batch_size": batch_size},
        )
        refs = before[-1].recorder.refs if before else []
        storage = tmp_path / folder
        storage.mkdir(exist_ok=True)
        launched = launch(learned, storage, len(before) + 1, refs, world_size)
        return launched.model_copy(update={"data_roots": (str(tmp_path),)})

    steps = epochs * num // batch_size
    changes = ((2, 2, 5), (3, 0, 17), (1, 1, None))  # ranks, processes of each, where they stop
    attempts: list[Attempt] = []
    seen = []
    for k, (world_size, processes, stop_at) in enumerate(changes):
        job = spec("changed", world_size, processes, *attempts)
        runs = [Noting(job, stop_at, notes=tmp_path / f"notes-{k}")]
        if k == 0:
            runs.append(Noting(spec("whole", world_size, 0), notes=tmp_path / "notes-whole"))
        if world_size == 1:
            outcome, recorder = runs[0].on(Seat(0, 1, torch.device("cpu")))
            attempts.append(Attempt(outcome, recorder, recorder.steps[-1:]))
        else:
            attempts.append(run_gang(runs, tmp_path, world_size)[0])
        seen += global_batches(tmp_path / f"notes-{k}", world_size)
    assert attempts[-1].outcome.result is Result.SUCCEEDED
    assert seen == global_batches(tmp_path / "notes-whole", 2)
    assert len(seen) == steps
    for epoch in range(epochs):
        batches = seen[epoch * steps // epochs : (epoch + 1) * steps // epochs]
        assert sorted(index for batch in batches for index, _ in batch) == list(range(num))
    looks = {look for batch in seen for _, look in batch}
    assert len(looks) == epochs * num  # each looks otherwise in each epoch


def test_codes_of_augmented_images_are_computed_anew_and_that_is_told_once(tmp_path: Path) -> None:
    pretraining = {"method": "greedy_supervised", "epochs": 1, "batch_size": 101}
    attempt = run_alone(launch(_recipe(pretraining=pretraining), tmp_path))
    assert attempt.outcome.result is Result.SUCCEEDED
    notices = [one for one in attempt.recorder.of(Noticed) if one.code == "codes_not_kept"]
    assert len(notices) == 1
    assert "data.augment" in notices[0].sentence


def test_the_wait_for_samples_is_measured_and_nothing_else_is_counted_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    monkeypatch.setattr("time.perf_counter", clock.monotonic)
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.0)

    class Slow:
        """Rows that take half a second, however many they are."""

        shape = (40, 3)

        def __getitem__(self, numbers: Any) -> Any:
            clock.advance(0.5)
            return np.ones((len(numbers), 3), np.float32)

    def step_taken(recorder: Recorder, step: int) -> None:
        clock.advance(1.5)

    own = types.ModuleType("slow_samples")
    own.load = lambda: (Slow(), np.arange(40) % 2)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slow_samples", own)
    monkeypatch.setattr(Recorder, "advance", step_taken)
    spec = recipe(
        data={"source": "custom", "import": "slow_samples:load", "test_fraction": 0.0},
        model={"kind": "mlp", "hidden": [4]},
        training={"epochs": 1, "batch_size": 10},
    )
    told = run_alone(launch(spec, tmp_path)).recorder.of(Progress)
    assert [one.data_wait_seconds for one in told] == [0.5] * 4
    assert [one.step_seconds for one in told] == [2.0] * 4


def test_the_test_part_is_read_once_after_all_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, int]] = []

    @dataclass
    class Rows:
        """Rows that note who they are."""

        name: str
        shape: tuple[int, int]

        def __getitem__(self, numbers: Any) -> Any:
            read.extend((self.name, number) for number in numbers.tolist())
            return np.ones((len(numbers), self.shape[1]), np.float32)

    own = types.ModuleType("noted_samples")
    y = np.arange(40) % 2
    own.load = lambda: (Rows("whole", (40, 3)), y, Rows("test", (9, 3)), y[:9])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "noted_samples", own)
    spec = recipe(
        data={"source": "custom", "import": "noted_samples:load", "validation_fraction": 0.25},
        model={"kind": "mlp", "hidden": [4]},
        training={"epochs": 2, "batch_size": 10, "early_stop": {"patience": 5}},
    )
    assert "test_error" in run_alone(launch(spec, tmp_path)).outcome.metrics
    assert read[-9:] == [("test", number) for number in range(9)]
    assert {name for name, _ in read[:-9]} == {"whole"}
    times = Counter(number for _, number in read[:-9])
    assert sorted(times.values()) == [2] * 40  # in training or in validation, never in both
