"""What an attempt tells on its way, and how it ends."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.workers.training.attempts import Run, launch, recipe, run_alone, run_gang
from workers.contract.outcome import ConfigFailure, NonFiniteFailure, Result
from workers.contract.recipe import Recipe
from workers.contract.reports import (
    CheckpointWritten,
    Evaluated,
    Noticed,
    Progress,
    StageEnded,
    StageStarted,
)
from workers.training import progress

SMALL = {"kind": "mlp", "hidden": [16], "activation": "sigmoid", "init": "xavier"}
BRIEF = {"epochs": 2, "batch_size": 100, "optimizer": {"name": "sgd", "lr": 0.5}}


def test_facts_come_in_the_order_of_a_stages_life(tmp_path: Path) -> None:
    spec = recipe(
        data={"source": "digits", "validation_fraction": 0.1},
        model=SMALL,
        pretraining={"method": "rbm", "epochs": 2},
        training=BRIEF,
    )
    attempt = run_alone(launch(spec, tmp_path))
    assert attempt.outcome.result is Result.SUCCEEDED
    facts = attempt.recorder.facts
    told = [fact.fact for fact in facts if not isinstance(fact, Progress | Noticed)]
    assert told == [
        *("stage_started", "checkpoint", "stage_ended"),
        *("stage_started", "evaluated", "evaluated", "checkpoint", "stage_ended"),
        "evaluated",
    ]
    started = attempt.recorder.of(StageStarted)
    assert [(fact.index, fact.count, fact.name) for fact in started] == [
        (0, 2, "pretrain-01"),
        (1, 2, "finetune"),
    ]
    ended: list[StageEnded] = attempt.recorder.of(StageEnded)
    assert all(0 < (fact.loss_last or 0) < (fact.loss_first or 0) for fact in ended)
    assert ended[0].metrics["code_sd"] > 0
    assert [fact.split for fact in attempt.recorder.of(Evaluated)] == [
        "validation",
        "validation",
        "test",
    ]
    assert attempt.recorder.steps == list(range(1, 2 * 12 + 2 * 12 + 1))
    metrics = attempt.outcome.metrics
    assert metrics["test_error"] == pytest.approx(100.0 - metrics["test_accuracy"])
    assert metrics["best_validation_error"] <= metrics["validation_error"]
    assert attempt.recorder.phases[0] == "setup"
    assert {"train", "checkpoint", "evaluate"} <= set(attempt.recorder.phases)


def test_progress_counts_steps_and_samples_of_the_whole_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.0)
    spec = recipe(
        model=SMALL, pretraining={"method": "denoising_autoencoder", "epochs": 1}, training=BRIEF
    )
    told: list[Progress] = run_alone(launch(spec, tmp_path)).recorder.of(Progress)
    assert [fact.step for fact in told] == list(range(1, 14 + 28 + 1))
    assert told[-1].samples == 42 * 100
    assert told[-1].eta_seconds == 0.0
    assert told[13].stage_step == 14
    assert told[14].stage_step == 1
    ended = [fact.epoch for fact in told if fact.stage_index == 1]
    assert ended == [0] * 13 + [1] * 14 + [2]
    looks = [fact for fact in told if "grad_norm.hidden-01" in fact.metrics]
    for fact in looks:
        of_layers = [v for k, v in fact.metrics.items() if k.startswith("grad_norm.")]
        assert fact.metrics["grad_norm"] >= max(of_layers)
    assert [fact.stage_step for fact in looks] == [1]
    assert all(fact.data_wait_seconds <= fact.step_seconds for fact in told)


def test_progress_is_told_a_few_times_a_second_at_the_most(tmp_path: Path) -> None:
    spec = recipe(model=SMALL, training={**BRIEF, "epochs": 20})
    attempt = run_alone(launch(spec, tmp_path))
    told = attempt.recorder.of(Progress)
    seconds = attempt.recorder.of(StageEnded)[0].seconds
    assert 2 <= len(told) <= 2 + seconds / progress.INTERVAL_SECONDS


def test_checkpoints_are_written_every_so_many_steps_of_the_job(tmp_path: Path) -> None:
    spec = recipe(model=SMALL, training=BRIEF, checkpoint={"every_steps": 10})
    written = run_alone(launch(spec, tmp_path)).recorder.of(CheckpointWritten)
    assert [fact.ref.step for fact in written] == [10, 20, 28]


def test_without_a_test_part_there_are_no_test_metrics(tmp_path: Path) -> None:
    spec = recipe(data={"source": "digits", "test_fraction": 0.0}, model=SMALL, training=BRIEF)
    assert run_alone(launch(spec, tmp_path)).outcome.metrics == {}


OPTIONS: dict[str, dict[str, Any]] = {
    "tanh, batch norm and dropout": {
        "model": {**SMALL, "activation": "tanh", "normalization": "batch", "dropout": 0.2}
    },
    "gelu, residual and layer norm, pretrained": {
        "model": {
            "kind": "mlp",
            "hidden": [16, 16, 12],
            "activation": "gelu",
            "residual": True,
            "normalization": "layer",
        },
        "pretraining": {"method": "greedy_supervised", "epochs": [2, 1, 1], "optimizer": "sgd"},
    },
    "an untied autoencoder with mse, without a cache": {
        "model": {**SMALL, "hidden": [16, 16], "activation": "relu"},
        "pretraining": {
            "method": "denoising_autoencoder",
            "layers": 2,
            "epochs": 2,
            "corruption": "gaussian",
            "corruption_level": [0.1, 0.2],
            "tied_weights": False,
            "reconstruction_loss": "mse",
            "cache": "none",
        },
    },
    "adamw, cosine, clipping": {
        "training": {
            "epochs": 3,
            "optimizer": {"name": "adamw", "lr": 0.01},
            "schedule": {"name": "cosine", "warmup_epochs": 1},
            "clip_norm": 1.0,
            "diagnostics_every_steps": 0,
        }
    },
}


@pytest.mark.parametrize("case", OPTIONS)
def test_every_option_trains(case: str, tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        "model": SMALL,
        "training": {**BRIEF, "epochs": 6},
        **OPTIONS[case],
    }
    outcome = run_alone(launch(recipe(**parts), tmp_path)).outcome
    assert outcome.metrics["test_error"] < 60.0  # chance is 90


def test_clipping_bounds_what_a_step_changes(tmp_path: Path) -> None:
    training = {"epochs": 1, "batch_size": 1000, "optimizer": {"name": "sgd", "lr": 1.0}}
    spec = recipe(model=SMALL, training={**training, "clip_norm": 1e-12})
    ended = run_alone(launch(spec, tmp_path)).recorder.of(Progress)
    ratio = ended[-1].metrics["update_ratio.hidden-01"]
    assert ratio < 1e-9


def test_a_loss_that_is_no_number_fails_with_a_sentence(tmp_path: Path) -> None:
    wild = recipe(
        model={"kind": "mlp", "hidden": [16, 16]},
        training={"epochs": 5, "optimizer": {"name": "sgd", "lr": 1e30}},
    )
    with pytest.raises(NonFiniteFailure, match="finetune became NaN or infinite"):
        run_alone(launch(wild, tmp_path))
    assert not list(tmp_path.rglob("manifest.json"))  # nothing of it is worth keeping


@pytest.mark.parametrize("method", ["rbm", "denoising_autoencoder"])
def test_inputs_that_are_no_probabilities_are_refused(method: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.linspace(0, 9, 400).reshape(200, 2), y=np.arange(200) % 2)
    spec = recipe(
        data={"source": "npz", "path": "set.npz"}, model=SMALL, pretraining={"method": method}
    )
    with pytest.raises(ConfigFailure, match=r"data\.scale: .* goes from 0 to .* scale: unit"):
        run_alone(launch(spec, tmp_path))


def test_ranks_average_over_samples_although_their_parts_differ(tmp_path: Path) -> None:
    """Without random numbers two ranks do what one does; 101 does not divide by 2."""

    def spec(method: str) -> Recipe:
        pretraining: dict[str, Any] = {"method": method, "epochs": 2, "batch_size": 101}
        if method == "denoising_autoencoder":
            pretraining["corruption"] = "none"
        return recipe(model=SMALL, pretraining=pretraining, training={**BRIEF, "batch_size": 101})

    methods = ("denoising_autoencoder", "greedy_supervised")
    gang = run_gang(
        [Run(launch(spec(method), tmp_path / f"{method}-2", world_size=2)) for method in methods],
        tmp_path,
    )
    for method, two in zip(methods, gang, strict=True):
        one = run_alone(launch(spec(method), tmp_path / method))
        for mine, theirs in zip(
            one.recorder.of(StageEnded), two.recorder.of(StageEnded), strict=True
        ):
            assert theirs.loss_first == pytest.approx(mine.loss_first, rel=1e-4)
            assert theirs.loss_last == pytest.approx(mine.loss_last, rel=1e-3)
        assert two.outcome.metrics == pytest.approx(one.outcome.metrics, rel=0.05)
        assert two.rank_steps == [one.rank_steps[0]] * 2


def test_the_room_opens_quickly() -> None:
    """What takes long to import is imported when needed; the first step waits for the rest."""
    slow = ["sklearn", "torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp"]
    program = f"import sys, workers.training.run; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
