"""What becomes of a job one of whose samples gives a gradient that is no number."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.workers.training.attempts import launch, recipe, run_alone
from workers.contract.launch import LaunchSpec
from workers.contract.outcome import NonFiniteFailure, Result
from workers.contract.reports import Noticed, Progress, StageEnded

BATCH, STEPS_PER_EPOCH, EPOCHS = 50, 4, 2
TOO_LARGE = 3e38  # what float32 holds at the most, nearly: sums of it are infinite


def _launch(folder: Path, policy: str) -> LaunchSpec:
    rows = np.random.default_rng(0)
    x, y = rows.random((BATCH * STEPS_PER_EPOCH, 6)), rows.integers(0, 2, BATCH * STEPS_PER_EPOCH)
    x[0] = TOO_LARGE
    np.savez(folder / "data.npz", x=x, y=y)
    spec = recipe(
        data={"source": "npz", "path": "data.npz", "test_fraction": 0.0},
        model={"kind": "mlp", "hidden": [8], "activation": "relu"},
        training={"epochs": EPOCHS, "batch_size": BATCH, "on_non_finite": policy},
    )
    return launch(spec, folder)


def test_to_fail_is_to_end_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteFailure, match=r"finetune became NaN .* lower the learning rate"):
        run_alone(_launch(tmp_path, "fail"))


def test_to_skip_is_to_learn_from_all_other_steps_and_to_tell_once(tmp_path: Path) -> None:
    attempt = run_alone(_launch(tmp_path, "skip"))
    assert attempt.outcome.result is Result.SUCCEEDED
    (stage,) = attempt.recorder.of(StageEnded)
    assert stage.steps == EPOCHS * STEPS_PER_EPOCH
    assert math.isfinite(stage.loss_last)
    assert attempt.recorder.of(Progress)[-1].metrics["nonfinite_steps"] == EPOCHS
    (noticed,) = attempt.recorder.of(Noticed)
    assert noticed.code == "non_finite_skipped"
    assert "steps of finetune were left out" in noticed.sentence
