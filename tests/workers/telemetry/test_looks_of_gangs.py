"""A look finds the same, whether each rank has the whole net or a shard of it."""

from pathlib import Path
from typing import Any

import pytest

from tests.workers.training.attempts import Attempt, Run, launch, recipe, run_gang
from workers.contract.outcome import Result
from workers.contract.recipe import Recipe
from workers.contract.reports import Noticed, Progress

LOOKED_AT = [1, 3]  # of three steps


def _recipe(**training: Any) -> Recipe:
    model = {"kind": "mlp", "hidden": [13] * 10, "activation": "sigmoid", "init": "lecun_uniform"}
    plain = {"epochs": 1, "batch_size": 401, "diagnostics_every_steps": 2, "clip_norm": 1e-3}
    return recipe(model=model, training={**plain, **training})


def _looks(attempt: Attempt) -> dict[int, dict[str, float]]:
    assert attempt.outcome.result is Result.SUCCEEDED
    return {one.step: one.metrics for one in attempt.recorder.of(Progress) if one.metrics}


def test_what_is_seen_of_shards_is_what_is_seen_of_the_whole(tmp_path: Path) -> None:
    specs = [_recipe(), _recipe(parallel="fsdp"), _recipe(parallel="fsdp", precision="fp16")]
    runs = [Run(launch(spec, tmp_path / str(k), world_size=2)) for k, spec in enumerate(specs)]
    whole, shards, scaled = run_gang(runs, tmp_path, tells_every_step=True)
    assert list(_looks(whole)) == LOOKED_AT
    for step, metrics in _looks(whole).items():
        assert _looks(shards)[step] == pytest.approx(metrics, rel=1e-4)
        # Of a scaled loss the gradient is told without the scale.
        assert _looks(scaled)[step]["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=0.01)
    for one in (whole, shards, scaled):
        assert [noticed.code for noticed in one.recorder.of(Noticed)] == ["vanishing_gradient"]
