"""Processes of the state folder, each recorded in a file of its own and known again by it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from service.settings import write_secret

START_TOLERANCE_SECONDS = 1.0  # the kernel counts a process's start in ticks


def record(home: Path, name: str, pid: int, **more: Any) -> None:
    """Write down which process this is; a pid alone may be another's one day."""
    value = {"pid": pid, "started_at": psutil.Process(pid).create_time(), **more}
    beside = home / f".{name}.json"
    write_secret(beside, json.dumps(value))
    beside.replace(home / f"{name}.json")


def recorded(home: Path, name: str) -> dict[str, Any] | None:
    """What was written down, whether it lives or not."""
    try:
        value = json.loads((home / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def living(home: Path, name: str) -> dict[str, Any] | None:
    """What was written down, if that very process lives."""
    value = recorded(home, name)
    if value is None:
        return None
    try:
        process = psutil.Process(value["pid"])
        if abs(process.create_time() - value["started_at"]) > START_TOLERANCE_SECONDS:
            return None
        return None if process.status() == psutil.STATUS_ZOMBIE else value
    except (psutil.Error, KeyError):
        return None


def forget(home: Path, name: str) -> None:
    """Remove the record."""
    (home / f"{name}.json").unlink(missing_ok=True)


def end(home: Path, name: str, seconds: float) -> None:
    """End the recorded process: by SIGTERM, and by SIGKILL if it takes too long."""
    value = living(home, name)
    if value is None:
        return
    try:
        process = psutil.Process(value["pid"])
        process.send_signal(signal.SIGTERM)
        process.wait(seconds)
    except psutil.TimeoutExpired:
        process.kill()
    except psutil.Error:
        return


def spawn(home: Path, name: str, words: list[str]) -> subprocess.Popen[bytes]:
    """Start `strata WORDS` in a session of its own, its output in the state folder's logs."""
    with (home / "logs" / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "service.cli", *words],
            env={**os.environ, "STRATA_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
