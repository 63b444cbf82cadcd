"""What is killed while a job trains costs time, never the job, and never a bit of its weights."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.end_to_end.home import Home, homes, write_job
from tests.end_to_end.weights import saved_tensors
from tests.waiting import eventually

# From the death of a rank to the next attempt's first progress: this, or on a machine that is busy
# with more than this test so many times what the first attempt took from its submission on.
RESUME_SECONDS = 10.0
RESUME_STARTS = 3.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    yield from homes(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def undisturbed(home: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same job with nothing killed: what every other run must equal."""
    job = home.submit(write_job(tmp_path_factory.mktemp("jobs"), "undisturbed"))
    status = home.wait_final(job)
    assert status["job"]["state"] == "succeeded"
    assert status["job"]["attempt"] == 1
    return status


def weights(home: Home, status: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Everything in the final checkpoint of a job, by name."""
    return saved_tensors(str(home.folder / "storage"), status["checkpoint"]["ref"])


def assert_equal(home: Home, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Final weights, every stage's losses and the test figures are the same to the bit."""
    ours, theirs = weights(home, one), weights(home, other)
    assert ours.keys() == theirs.keys()
    assert ours
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    for mine, its in zip(one["stages"], other["stages"], strict=True):
        assert mine["loss_first"] == its["loss_first"], mine["name"]
        assert mine["loss_last"] == its["loss_last"], mine["name"]
    assert one["job"]["metrics"] == other["job"]["metrics"]


def test_a_rank_killed_in_pretraining_and_again_in_fine_tuning(
    home: Home, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    submitted_at = time.monotonic()
    job = home.submit(write_job(tmp_path, "killed-twice"))
    home.wait_step(job, "pretrain-01", attempt=1)
    limit_seconds = max(RESUME_SECONDS, RESUME_STARTS * (time.monotonic() - submitted_at))
    for attempt, stage in ((1, "pretrain-02"), (2, "finetune")):
        home.wait_step(job, stage, attempt=attempt, epoch=5)
        killed_at = time.monotonic()
        home.kill_a_rank()
        home.wait_step(job, stage, attempt=attempt + 1)
        assert time.monotonic() - killed_at < limit_seconds
    status = home.wait_final(job)
    assert status["job"]["state"] == "succeeded"
    assert status["job"]["attempt"] == 3
    assert [a["failure"] for a in status["attempts"]] == ["worker_died", "worker_died", None]
    assert_equal(home, status, undisturbed)


@pytest.mark.parametrize("victim", ["server", "agent"])
def test_training_goes_on_while_the_server_or_the_agent_is_dead(
    home: Home, tmp_path: Path, undisturbed: dict[str, Any], victim: str
) -> None:
    job = home.submit(write_job(tmp_path, f"without-{victim}"))
    before = home.wait_step(job, "pretrain-01", attempt=1)
    ranks = {process.pid for process in home.processes_of_ray("Rank")}
    pid = home.record(victim)["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: home.record(victim)["pid"] != pid or _restart(home), f"a new {victim}")
    after = home.wait_step(job, "pretrain-03", attempt=1)
    assert after["job"]["state"] == "running"
    assert after["latest"]["progress"]["step"] > before["latest"]["progress"]["step"]
    assert {process.pid for process in home.processes_of_ray("Rank")} == ranks
    status = home.wait_final(job)
    assert status["job"]["state"] == "succeeded"
    assert status["job"]["attempt"] == 1
    assert [stage["name"] for stage in status["stages"]] == [
        "pretrain-01",
        "pretrain-02",
        "pretrain-03",
        "finetune",
    ]
    assert_equal(home, status, undisturbed)


def _restart(home: Home) -> bool:
    """Do what a person does who finds no server: any command that needs one starts it."""
    home.call("submit", "--dry-run", str(write_job(home.folder, "nothing")))
    return False
