"""Curves in event files while a job trains: each step once, whatever became of its attempts."""

import errno
from pathlib import Path

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event

from tests.event_files import Scalar, scalars_in
from tests.workers.gang.launches import progress as progress_at
from tests.workers.training.attempts import Recorder, launch, recipe, run_alone
from workers.contract.launch import LaunchSpec
from workers.contract.outcome import Result
from workers.contract.reports import Noticed, Progress, StageKind, StageStarted
from workers.telemetry.tensorboard import NOT_WRITTEN, writing_curves
from workers.training import progress

TRAINED = recipe(
    model={"kind": "mlp", "hidden": [8]},
    training={"epochs": 1, "batch_size": 200, "tensorboard": True, "diagnostics_every_steps": 2},
    checkpoint={"every_steps": 3},
)


@pytest.fixture(autouse=True)
def each_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.0)


def written(storage: Path) -> list[Scalar]:
    files = sorted((storage / "jobs" / "job" / "tensorboard").iterdir())
    return scalars_in(b"".join(file.read_bytes() for file in files))


def curve(storage: Path, tag: str = "finetune/loss") -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in written(storage) if one.tag == tag]


def test_an_attempt_writes_all_that_it_tells(tmp_path: Path) -> None:
    attempt = run_alone(launch(TRAINED, tmp_path))
    told = attempt.recorder.of(Progress)
    steps, losses = zip(*curve(tmp_path), strict=True)
    assert list(steps) == [one.step for one in told]
    assert list(losses) == pytest.approx([one.loss for one in told])
    looked = [one.step for one in told if "grad_norm" in one.metrics]
    assert [step for step, _ in curve(tmp_path, "finetune/grad_norm")] == looked == [1, 3, 5, 7]


def test_a_resumed_job_has_each_step_once(tmp_path: Path) -> None:
    whole = run_alone(launch(TRAINED, tmp_path / "whole"))
    assert whole.outcome.result is Result.SUCCEEDED
    stopped = run_alone(launch(TRAINED, tmp_path / "cut"), stop_at=5)
    earlier = [ref for ref in stopped.recorder.refs if ref.step == 3]  # as if killed after step 5
    run_alone(launch(TRAINED, tmp_path / "cut", attempt=2, resume=earlier))
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert len(curve(tmp_path / "cut")) == 7


def test_a_step_that_was_gone_back_to_counts_as_told_last(tmp_path: Path) -> None:
    recorder = Recorder()
    listener = writing_curves(launch(TRAINED, tmp_path), recorder)
    listener.tell(STARTED)
    for step, loss in ((1, 3.0), (2, 2.0), (3, None), (2, 1.0)):
        listener.tell(told(step, loss))
    assert curve(tmp_path) == [(1, 3.0), (2, 1.0)]
    assert len(recorder.of(Progress)) == 4


def test_storage_that_can_not_append_is_told_and_the_training_goes_on() -> None:
    spec = launch(TRAINED, Path("storage")).model_copy(update={"storage_url": "memory://strata"})
    noticed = refusal(spec)
    assert "memory://strata can't append to files" in noticed.sentence
    assert "strata metrics JOB --tensorboard DIR" in noticed.sentence


def test_a_folder_that_can_not_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("in the way")
    assert "The curves are not written" in refusal(launch(TRAINED, tmp_path)).sentence


def test_a_disk_that_fills_up_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, tries = Recorder(), []
    listener = writing_curves(launch(TRAINED, tmp_path), recorder)

    def is_full(_writer: EventsWriter, event: Event) -> None:
        tries.append(event.step)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventsWriter, "write_event", is_full)
    listener.tell(STARTED)
    listener.tell(told(1, 1.0))
    listener.tell(told(2, 1.0))
    assert tries == [1]
    [noticed] = recorder.of(Noticed)
    assert noticed.code == NOT_WRITTEN
    assert "No space left on device" in noticed.sentence
    assert len(recorder.of(Progress)) == 2


def refusal(spec: LaunchSpec) -> Noticed:
    """What is told where nothing is written, though training goes on."""
    recorder = Recorder()
    listener = writing_curves(spec, recorder)
    listener.tell(STARTED)
    listener.tell(told(1, 1.0))
    assert len(recorder.of(Progress)) == 1
    [noticed] = recorder.of(Noticed)
    assert isinstance(noticed, Noticed)
    assert noticed.code == NOT_WRITTEN
    return noticed


STARTED = StageStarted(
    index=0, count=1, name="finetune", kind=StageKind.FINETUNE, epochs=1, steps_per_epoch=7
)


def told(step: int, loss: float | None) -> Progress:
    return progress_at(step).model_copy(update={"loss": loss})
