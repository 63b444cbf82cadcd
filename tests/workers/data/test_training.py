"""Training on augmented images that are read ahead: interrupted or not, the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.training.attempts import (
    Attempt,
    Run,
    launch,
    recipe,
    run_alone,
    run_gang,
    saved_tensors,
)
from workers.contract.outcome import Result
from workers.contract.recipe import Recipe
from workers.contract.reports import Noticed, Progress
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


def test_other_numbers_of_workers_see_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.0)
    whole = run_alone(launch(_recipe(), tmp_path / "whole"))
    folder = tmp_path / "cut"
    attempts: list[Attempt] = []
    for world_size, stop_at in ((2, 5), (4, STEPS_PER_EPOCH + 3)):
        refs = attempts[-1].recorder.refs if attempts else []
        spec = launch(_recipe(), folder, len(attempts) + 1, refs, world_size)
        attempts += run_gang([Run(spec, stop_at)], tmp_path, world_size, tells_every_step=True)
    attempts.append(run_alone(launch(_recipe(), folder, 3, attempts[-1].recorder.refs)))
    assert attempts[-1].outcome.result is Result.SUCCEEDED
    assert _losses(*attempts) == pytest.approx(_losses(whole), rel=1e-5)
    assert len(_losses(whole)) == STEPS


def test_codes_of_augmented_images_are_computed_anew_and_that_is_told_once(tmp_path: Path) -> None:
    pretraining = {"method": "greedy_supervised", "epochs": 1, "batch_size": 101}
    attempt = run_alone(launch(_recipe(pretraining=pretraining), tmp_path))
    assert attempt.outcome.result is Result.SUCCEEDED
    notices = [one for one in attempt.recorder.of(Noticed) if one.code == "codes_not_kept"]
    assert len(notices) == 1
    assert "data.augment" in notices[0].sentence
