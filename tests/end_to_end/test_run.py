"""`strata run`: Ctrl-C holds, --resume goes on, twice cancels; two at once share a service."""

import gzip
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.home import Home, homes, write_job
from tests.waiting import eventually

RUN_SECONDS = 120.0


def job_named(home: Home, name: str) -> dict[str, Any] | None:
    """The job of that name, once it is there."""
    jobs = home.json("jobs")["jobs"]
    return next((job for job in jobs if job["spec"]["name"] == name), None)


def started(home: Home, name: str, path: Path) -> tuple[subprocess.Popen[str], str]:
    """`strata run` in the background, and the id of its job once it trains."""
    run = home.start("run", str(path), "-o", "json")
    job = eventually(lambda: job_named(home, name), f"{name} is submitted")
    home.wait_step(job["id"], "pretrain-01", attempt=1)
    return run, str(job["id"])


def test_ctrl_c_holds_at_a_checkpoint_and_resume_goes_on(home: Home, tmp_path: Path) -> None:
    path = write_job(tmp_path, "held", training={"epochs": 20})
    run, job = started(home, "held", path)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=RUN_SECONDS)
    assert run.returncode == 130
    assert "strata run --resume" in said
    held = home.status(job)
    assert held["job"]["state"] == "held"
    step = held["checkpoint"]["ref"]["step"]
    assert step >= held["latest"]["progress"]["step"]
    answer = json.loads(home.call("run", "--resume", job, "-o", "json").stdout)
    assert answer["state"] == "succeeded"
    assert answer["attempts"] == 2
    assert home.status(job)["checkpoint"]["ref"]["step"] > step


def test_the_steps_of_a_running_job_are_traced(home: Home, tmp_path: Path) -> None:
    run, job = started(home, "traced", write_job(tmp_path, "traced"))
    said = home.json("profile", job, "--steps", "3")["message"]
    steps, _, place = said.partition(": ")
    assert steps.endswith("of rank 0")
    assert json.loads(gzip.decompress(Path(place).read_bytes()))["traceEvents"]
    home.call("cancel", job)
    run.communicate(timeout=RUN_SECONDS)
    assert "there are no steps to trace" in home.call("profile", job, code=4).stderr


def test_ctrl_c_twice_cancels(home: Home, tmp_path: Path) -> None:
    run, job = started(home, "cancelled", write_job(tmp_path, "cancelled"))
    run.send_signal(signal.SIGINT)
    eventually(lambda: home.status(job)["job"]["state"] != "running", "the first Ctrl-C is heard")
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=RUN_SECONDS)
    assert run.returncode == 130
    assert home.wait_final(job)["job"]["state"] == "cancelled"


def test_two_runs_at_once_share_one_service(tmp_path_factory: pytest.TempPathFactory) -> None:
    for home in homes(tmp_path_factory.mktemp("two")):
        short = {"pretraining": {"method": "rbm", "epochs": 10}, "training": {"epochs": 5}}
        jobs = [write_job(home.folder.parent, f"two-{n}", **short) for n in "ab"]
        runs = [home.start("run", str(path), "-o", "json") for path in jobs]
        answers = []
        for run in runs:
            out, err = run.communicate(timeout=RUN_SECONDS)
            assert run.returncode == 0, err
            answers.append(json.loads(out))
        assert [answer["state"] for answer in answers] == ["succeeded", "succeeded"]
        assert len({answer["id"] for answer in answers}) == 2
        folder = str(home.folder)
        servers = [p for p in psutil.process_iter(["cmdline"]) if _serves(p, folder)]
        assert len(servers) == 1
        assert len(home.processes_of_ray("")) > 0


def _serves(process: psutil.Process, folder: str) -> bool:
    try:
        words = process.cmdline()
        return "server" in words and process.environ().get("STRATA_HOME") == folder
    except psutil.Error:
        return False
