"""Traces on request: what they hold, and that none of it can harm the training."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch.profiler import profile

from tests.workers.training.attempts import Attempt, Recorder, launch, recipe
from workers.contract.launch import LaunchSpec
from workers.contract.outcome import Result
from workers.contract.reports import PROFILE_FAILED, PROFILED, Noticed, ProfileOrder
from workers.parallel.mesh import Seat
from workers.training.run import train

SEVEN_STEPS = recipe(
    model={"kind": "mlp", "hidden": [8]}, training={"epochs": 1, "batch_size": 200}
)
ALONE = Seat(0, 1, torch.device("cpu"))


def traced(spec: LaunchSpec, *orders: tuple[int, ProfileOrder]) -> Attempt:
    """Train while an order comes after each of these steps."""

    class Ordering(Recorder):
        def profile_order(self) -> ProfileOrder | None:
            due = [order for step, order in orders if len(self.steps) >= step]
            return due[-1] if due else None

    recorder = Ordering()
    outcome = train(spec, ALONE, recorder)
    assert outcome.result is Result.SUCCEEDED
    return Attempt(outcome, recorder, recorder.steps[-1:])


def said(attempt: Attempt) -> list[tuple[str, str]]:
    return [(fact.code, fact.sentence) for fact in attempt.recorder.of(Noticed)]


def steps_in(folder: Path) -> list[list[str]]:
    """The steps in each trace, as their marks name them."""
    found = []
    for file in sorted((folder / "jobs" / "job" / "profiles").iterdir()):
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        marks = {e["name"] for e in events if e.get("cat") == "user_annotation"}
        assert any("addmm" in str(event.get("name")) for event in events)
        found.append(sorted(mark for mark in marks if mark.startswith("step ")))
    return found


def test_an_order_is_carried_out_once_from_the_step_at_which_it_comes(tmp_path: Path) -> None:
    attempt = traced(launch(SEVEN_STEPS, tmp_path), (2, ProfileOrder(number=1, steps=3)))
    assert steps_in(tmp_path) == [["step 3", "step 4", "step 5"]]
    place = f"{tmp_path}/jobs/job/profiles/step-000000003-a1.json.gz"
    assert said(attempt) == [(PROFILED, f"Steps 3 to 5 of rank 0: {place}")]
    assert attempt.recorder.phases.count("profile") == 1


def test_a_newer_order_makes_another_trace(tmp_path: Path) -> None:
    orders = (0, ProfileOrder(number=1, steps=1)), (4, ProfileOrder(number=2, steps=1))
    traced(launch(SEVEN_STEPS, tmp_path), *orders)
    assert steps_in(tmp_path) == [["step 1"], ["step 5"]]


def test_a_trace_that_the_end_cuts_short_holds_the_steps_there_were(tmp_path: Path) -> None:
    attempt = traced(launch(SEVEN_STEPS, tmp_path), (5, ProfileOrder(number=1, steps=100)))
    assert steps_in(tmp_path) == [["step 6", "step 7"]]
    assert said(attempt)[0][1].startswith("Steps 6 to 7 of rank 0")


def test_a_trace_that_can_not_be_written_is_told_and_the_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "job").mkdir(parents=True)
    (tmp_path / "jobs" / "job" / "profiles").write_text("in the way")
    attempt = traced(launch(SEVEN_STEPS, tmp_path), (2, ProfileOrder(number=1, steps=1)))
    [(code, sentence)] = said(attempt)
    assert code == PROFILE_FAILED
    assert "profiles" in sentence


def test_a_profiler_that_can_not_begin_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refuses(_profile: profile) -> None:
        tries.append(1)
        raise RuntimeError("another one is at work")

    monkeypatch.setattr(profile, "start", refuses)
    attempt = traced(launch(SEVEN_STEPS, tmp_path), (2, ProfileOrder(number=1, steps=1)))
    assert len(tries) == 1
    assert said(attempt) == [(PROFILE_FAILED, "No trace could begin: another one is at work")]


def test_it_changes_no_figure(tmp_path: Path) -> None:
    whole = traced(launch(SEVEN_STEPS, tmp_path / "plain"))
    looked = traced(launch(SEVEN_STEPS, tmp_path / "traced"), (1, ProfileOrder(number=1, steps=4)))
    assert whole.outcome.metrics == looked.outcome.metrics
    assert PROFILED in dict(said(looked))
