"""What stages hand to each other, and when they end before their time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.workers.training.attempts import launch, recipe, run_alone, saved_tensors
from workers.contract.outcome import ConfigFailure, Result
from workers.contract.reports import CheckpointWritten, Evaluated, Noticed, StageEnded
from workers.data.node_folder import VARIABLE
from workers.stages import handover

MODEL = {"kind": "mlp", "hidden": [12, 9], "activation": "sigmoid", "init": "xavier"}
STAGES: dict[str, Any] = {"method": "denoising_autoencoder", "epochs": 3, "batch_size": 200}
TRAINING: dict[str, Any] = {"epochs": 2, "batch_size": 200}
VALIDATED = {"source": "digits", "validation_fraction": 0.1}


def test_layers_learn_from_samples_without_labels_and_the_net_from_the_labelled_ones(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "more.npy", np.random.default_rng(0).random((2000, 64), dtype=np.float32))
    unlabelled = {"source": "npy", "x": "more.npy", "y": None, "test_fraction": 0.0}
    attempt = run_alone(
        launch(
            recipe(model=MODEL, training=TRAINING, pretraining=STAGES | {"data": unlabelled}),
            tmp_path,
        )
    )
    steps = {stage.name: stage.steps for stage in attempt.recorder.of(StageEnded)}
    assert steps == {"pretrain-01": 30, "pretrain-02": 30, "finetune": 14}


def test_samples_of_another_shape_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros((300, 8)), y=np.zeros(300, np.int64))
    other = {"source": "npz", "path": "other.npz"}
    spec = launch(recipe(model=MODEL, pretraining=STAGES | {"data": other}), tmp_path)
    with pytest.raises(ConfigFailure, match=r"pretraining\.data: .*\(8,\).*\(64,\)"):
        run_alone(spec)


def test_a_stage_that_gets_no_better_ends_early_and_resumes_to_the_same_bits(
    tmp_path: Path,
) -> None:
    told = recipe(
        model=MODEL,
        training=TRAINING,
        # An improvement of 90 % is never seen after the first epoch.
        pretraining=STAGES | {"epochs": 9, "early_stop": {"patience": 2, "min_improvement": 0.9}},
    )
    whole = run_alone(launch(told, tmp_path / "whole"))
    ended = whole.recorder.of(StageEnded)
    assert [(stage.epochs, stage.steps) for stage in ended] == [(3, 21), (3, 21), (2, 14)]
    codes = [noticed.code for noticed in whole.recorder.of(Noticed)]
    assert codes.count("stopped_early") == 2

    storage = tmp_path / "halves"
    # In the third epoch of the second stage, which begins where nine epochs of the first would end.
    first = run_alone(launch(told, storage), stop_at=63 + 16)
    assert first.outcome.result is Result.STOPPED
    second = run_alone(launch(told, storage, attempt=2, resume=first.recorder.refs))
    assert [stage.steps for stage in second.recorder.of(StageEnded)] == [21, 14]
    there = saved_tensors(tmp_path / "whole", whole.recorder.refs[0])
    again = saved_tensors(storage, second.recorder.refs[0])
    assert all(torch.equal(there[name], again[name]) for name in there)


@pytest.mark.parametrize(
    ("early_stop", "steps"),
    [({"patience": 1, "min_improvement": 0.9}, 6), ({"patience": 9, "target": 100.0}, 3)],
)
def test_the_training_ends_by_what_evaluations_find(
    early_stop: dict[str, float], steps: int, tmp_path: Path
) -> None:
    training = TRAINING | {"early_stop": early_stop, "evaluate_every_steps": 3, "epochs": 9}
    told = recipe(model=MODEL, data=VALIDATED, training=training)
    attempt = run_alone(launch(told, tmp_path))
    (stage,) = attempt.recorder.of(StageEnded)
    assert stage.steps == steps
    evaluated = [one.step for one in attempt.recorder.of(Evaluated) if one.split == "validation"]
    assert evaluated == list(range(3, steps + 1, 3))
    assert attempt.outcome.result is Result.SUCCEEDED


def test_codes_on_disk_serve_another_job_and_train_it_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "node"))
    nets: list[dict[str, torch.Tensor]] = []
    for cache in ("disk", "disk", "memory"):
        storage = tmp_path / f"job-{len(nets)}"
        told = recipe(model=MODEL, training=TRAINING, pretraining=STAGES | {"cache": cache})
        nets.append(saved_tensors(storage, run_alone(launch(told, storage)).recorder.refs[0]))
    assert len(list(tmp_path.glob("node/codes/*.npy"))) == 2
    for net in nets[1:]:
        assert all(torch.equal(nets[0][name], net[name]) for name in net)


def test_codes_on_disk_serve_a_retry_and_a_deeper_net(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "node"))
    told = recipe(model=MODEL, training=TRAINING, pretraining=STAGES | {"cache": "disk"})
    stopped = run_alone(launch(told, tmp_path / "job"), stop_at=21 + 5)  # in the second stage
    (first,) = (tmp_path / "node").glob("codes/*.npy")
    inode = first.stat().st_ino
    run_alone(launch(told, tmp_path / "job", attempt=2, resume=stopped.recorder.refs))
    deeper = MODEL | {"hidden": [12, 9, 8]}
    run_alone(
        launch(
            recipe(model=deeper, training=TRAINING, pretraining=STAGES | {"cache": "disk"}),
            tmp_path / "deeper",
        )
    )
    assert len(list(tmp_path.glob("node/codes/*.npy"))) == 3  # one for each different layer
    assert first.stat().st_ino == inode  # it was not written anew


def test_a_retry_of_the_fine_tuning_computes_no_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = recipe(model=MODEL, training=TRAINING, pretraining=STAGES | {"cache": "disk"})
    monkeypatch.setenv(VARIABLE, str(tmp_path / "node"))
    stopped = run_alone(launch(told, tmp_path), stop_at=2 * 21 + 3)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other-node"))
    again = run_alone(launch(told, tmp_path, attempt=2, resume=stopped.recorder.refs))
    assert again.outcome.result is Result.SUCCEEDED
    assert not (tmp_path / "other-node").exists()


def test_a_disk_that_takes_no_codes_is_told_once_and_does_not_end_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node").write_text("no folder")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "node"))
    told = recipe(model=MODEL, training=TRAINING, pretraining=STAGES | {"cache": "disk"})
    attempt = run_alone(launch(told, tmp_path))
    assert attempt.outcome.result is Result.SUCCEEDED
    (noticed,) = [one for one in attempt.recorder.of(Noticed) if one.code == "codes_not_kept"]
    assert "not kept on disk" in noticed.sentence


def test_codes_that_memory_has_no_room_for_are_computed_anew_and_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "CODES_IN_MEMORY_BYTES_MAX", 0)
    nets = []
    for cache in ("memory", "none"):
        told = recipe(model=MODEL, training=TRAINING, pretraining=STAGES | {"cache": cache})
        attempt = run_alone(launch(told, tmp_path / cache))
        nets.append(saved_tensors(tmp_path / cache, attempt.recorder.refs[0]))
        told_of = [one for one in attempt.recorder.of(Noticed) if one.code == "codes_not_kept"]
        assert len(told_of) == (1 if cache == "memory" else 0)
        assert all("not kept in memory" in one.sentence for one in told_of)
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


def test_a_checkpoint_is_saved_when_the_clock_says_so(tmp_path: Path) -> None:
    told = recipe(model=MODEL, training=TRAINING, checkpoint={"every_seconds": 1e-9})
    attempt = run_alone(launch(told, tmp_path))
    written = [one.ref.step for one in attempt.recorder.of(CheckpointWritten)]
    assert written == list(range(1, 15))
