"""A state folder of its own with the real service in it, driven as its user drives it."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.waiting import eventually

COMMAND_SECONDS = 120.0


@dataclass(frozen=True)
class Home:
    """STRATA_HOME and what a person does with it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every command."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("STRATA_", "RAY_"))}
        return {**kept, "STRATA_HOME": str(self.folder), "STRATA_IDLE_SECONDS": "600"}

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command and do not wait for it."""
        return subprocess.Popen(
            [sys.executable, "-m", "service.cli", *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            **more,
        )

    def call(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and check its exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", *words],
            env=self.environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        """Run a command with `-o json` and return what it prints."""
        return json.loads(self.call(*words, "-o", "json", code=code).stdout)

    def submit(self, file: Path) -> str:
        """Submit a job and return its id."""
        answer = self.json("submit", str(file))
        return str(answer["job"]["id"])

    def status(self, job_id: str) -> dict[str, Any]:
        """All that is known of the job; from the database where no server answers."""
        try:
            answer: dict[str, Any] = self.get(f"/v1/jobs/{job_id}")
        except OSError:
            answer = self.json("status", job_id)
        return answer

    def get(self, path: str) -> Any:
        """Ask the local server."""
        token = (self.folder / "token").read_text().strip()
        request = urllib.request.Request(
            self.record("server")["url"] + path, headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def wait_final(self, job_id: str, seconds: float = 120.0) -> dict[str, Any]:
        """Wait until nothing can move the job any more."""
        final = {"succeeded", "failed", "cancelled", "timed_out"}

        def ended() -> dict[str, Any] | None:
            status = self.status(job_id)
            return status if status["job"]["state"] in final else None

        return eventually(ended, f"{job_id} ends", seconds)

    def wait_step(self, job_id: str, stage: str, *, attempt: int, epoch: int = 1) -> dict[str, Any]:
        """Wait until this attempt reports progress in a stage whose name begins so."""

        def there() -> dict[str, Any] | None:
            status = self.status(job_id)
            latest = status["latest"]
            if not latest or latest["attempt"] != attempt:
                return None
            index = latest["progress"]["stage_index"]
            names = [s["name"] for s in status["stages"] if s["index"] == index]
            is_there = names and names[0].startswith(stage) and latest["progress"]["epoch"] >= epoch
            return status if is_there else None

        return eventually(there, f"attempt {attempt} trains in {stage}")

    def record(self, name: str) -> dict[str, Any]:
        """A file like server.json or ray.json of the state folder."""
        value: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return value

    def processes_of_ray(self, word: str) -> list[psutil.Process]:
        """The processes of this home's Ray whose title has the word, as `Rank` or `Driver`."""
        session = os.getsid(self.record("ray")["pid"])
        return [
            process
            for process in psutil.process_iter(["pid", "cmdline"])
            if _session(process.pid) == session
            and process.info["cmdline"]
            and process.info["cmdline"][0].startswith("ray::")
            and word in process.info["cmdline"][0]
        ]

    def kill_a_rank(self) -> int:
        """SIGKILL one rank that trains; return its pid."""
        ranks = eventually(lambda: self.processes_of_ray("Rank"), "a rank lives")
        os.kill(ranks[-1].pid, signal.SIGKILL)
        return ranks[-1].pid

    def close(self) -> None:
        """End the service of this home, its agent and its Ray."""
        self.call("down", "--force")


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def write_job(folder: Path, name: str, **changes: Any) -> Path:
    """A small staged job: three layers by RBM, then fine-tuning; seconds long."""
    spec: dict[str, Any] = {
        "name": name,
        "resources": {"workers": 2},
        "data": {"source": "digits"},
        "model": {
            "kind": "mlp",
            "hidden": [64, 64, 64],
            "activation": "sigmoid",
            "init": "lecun_uniform",
        },
        "pretraining": {"method": "rbm", "epochs": 60},
        "training": {"epochs": 150},
        "checkpoint": {"every_steps": 50},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**spec, **changes}))
    return path


def homes(folder: Path) -> Iterator[Home]:
    """A home that is cleared away afterwards."""
    home = Home(folder)
    try:
        yield home
    finally:
        home.close()
