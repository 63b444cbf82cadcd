"""A loss that became no number: the stage goes back, and on without the batches that led there."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

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
from workers.contract.outcome import NonFiniteFailure, Result
from workers.contract.recipe import Recipe
from workers.contract.reports import CheckpointWritten, FactBody, Noticed, StageEnded
from workers.parallel.mesh import Seat
from workers.training import progress
from workers.training.run import train

BATCH = 50
STEPS_PER_EPOCH = 8
TOO_LARGE = 3e38  # what float32 holds at the most, nearly: sums of it are infinite


def _recipe(folder: Path, num_bad: int, every_steps: int = 3, **training: object) -> Recipe:
    rows = np.random.default_rng(0)
    x, y = rows.random((BATCH * STEPS_PER_EPOCH, 6)), rows.integers(0, 2, BATCH * STEPS_PER_EPOCH)
    x[:num_bad] = TOO_LARGE
    np.savez(folder / "data.npz", x=x, y=y)
    return recipe(
        data={"source": "npz", "path": "data.npz", "test_fraction": 0.0},
        model={"kind": "mlp", "hidden": [8], "activation": "relu"},
        training={"epochs": 2, "batch_size": BATCH, "on_non_finite": "rollback", **training},
        checkpoint={"every_steps": every_steps},
    )


def _run(told: Recipe, folder: Path) -> Attempt:
    return run_alone(launch(told, folder))


def _times(attempt: Attempt) -> int:
    return [noticed.code for noticed in attempt.recorder.of(Noticed)].count("rolled_back")


def test_the_stage_goes_back_and_passes_over_the_batches_that_led_there(tmp_path: Path) -> None:
    attempt = _run(_recipe(tmp_path, num_bad=1), tmp_path)
    assert attempt.outcome.result is Result.SUCCEEDED
    assert 1 <= _times(attempt) <= 2  # once in each epoch, unless it lies in what is passed over
    (stage,) = attempt.recorder.of(StageEnded)
    assert stage.steps == 2 * STEPS_PER_EPOCH
    assert stage.loss_last is not None
    assert stage.loss_last < 1.0


def test_a_stage_goes_back_so_often_and_no_more(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteFailure, match=r"went back 5 times already"):
        _run(_recipe(tmp_path, num_bad=1, every_steps=1, epochs=30), tmp_path)


def test_a_stage_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteFailure, match=r"no checkpoint to go back to.*every_steps"):
        _run(_recipe(tmp_path, num_bad=BATCH * STEPS_PER_EPOCH, every_steps=1000), tmp_path)


def test_how_often_is_reported_decides_on_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets, sentences = [], []
    for place, interval_seconds in ((tmp_path / "often", 0.0), (tmp_path / "once", math.inf)):
        place.mkdir()
        monkeypatch.setattr(progress, "INTERVAL_SECONDS", interval_seconds)
        attempt = _run(_recipe(place, num_bad=1, every_steps=6), place)
        nets.append(saved_tensors(place, attempt.recorder.refs[0]))
        sentences.append(
            [one.sentence for one in attempt.recorder.of(Noticed) if one.code == "rolled_back"]
        )
    assert len(sentences[0]) > 0
    assert sentences[0] == sentences[1]
    assert [name for name in nets[0] if not torch.equal(nets[0][name], nets[1][name])] == []


@dataclass
class Damaging(Recorder):
    """Damages the checkpoint of a step as soon as it is told."""

    storage: Path = Path()
    step: int = 0

    def tell(self, fact: FactBody) -> None:
        super().tell(fact)
        if isinstance(fact, CheckpointWritten) and fact.ref.step == self.step:
            (self.storage / fact.ref.path / "state.json").write_text("{}")


def test_a_damaged_checkpoint_is_passed_over_with_a_sentence(tmp_path: Path) -> None:
    places = tmp_path / "whole", tmp_path / "damaged"
    for place in places:
        place.mkdir()
    whole, damaged = (launch(_recipe(place, num_bad=1, every_steps=1), place) for place in places)
    by_step = {ref.step: ref for ref in run_alone(whole).recorder.refs}
    bad_step = min(set(range(1, 2 * STEPS_PER_EPOCH)) - by_step.keys())  # passed over
    recorder = Damaging(storage=places[1], step=bad_step - 1)
    train(damaged, Seat(0, 1, torch.device("cpu")), recorder)
    sentences = {one.code: one.sentence for one in reversed(recorder.of(Noticed))}
    assert by_step[bad_step - 1].path in sentences["checkpoint_fallback"]
    assert by_step[bad_step - 2].path in sentences["checkpoint_fallback"]
    assert f"Went back to {by_step[bad_step - 2].path}" in sentences["rolled_back"]


def test_all_ranks_go_back_together_and_a_resumed_job_ends_with_the_same_figures(
    tmp_path: Path,
) -> None:
    told = _recipe(tmp_path, num_bad=1)
    (gang,) = run_gang([Run(launch(told, tmp_path, world_size=2))], tmp_path)
    assert _times(gang) >= 1
    went_back_to = gang.recorder.refs[-1]
    (again,) = run_gang([Run(launch(told, tmp_path, 2, [went_back_to], world_size=2))], tmp_path)
    assert again.recorder.of(StageEnded)[0].loss_last == gang.recorder.of(StageEnded)[0].loss_last
