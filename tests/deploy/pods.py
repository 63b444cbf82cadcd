"""Runs the containers of rendered manifests as local processes, as a kubelet would on a node.

Command, arguments, environment and probes are the manifest's. What only a cluster has is put in its
place by name: secrets, addresses of Services, the mount of the storage.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.waiting import eventually

BIN = Path(sys.executable).parent
READY_SECONDS = 90.0
END_SECONDS = 15.0
Manifest = dict[str, Any]


@dataclass
class Place:
    """What stands for the cluster on this machine."""

    folder: Path
    secrets: Mapping[tuple[str, str], str]  # (name, key) -> value
    substitutes: dict[str, str] = field(default_factory=dict)  # in values and arguments

    def here(self, text: str) -> str:
        """A value of the manifest, as it is on this machine; longer names go first."""
        for name in sorted(self.substitutes, key=len, reverse=True):
            text = text.replace(name, self.substitutes[name])
        return text

    def environment(self, container: Manifest) -> dict[str, str]:
        """The container's variables, and of our own only what a program can't do without."""
        found = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        found |= {"PATH": f"{BIN}:{found['PATH']}", "HOME": str(self.folder)}
        found |= {"OMP_NUM_THREADS": "1"}  # this machine is shared by all of them
        assert "envFrom" not in container, "whole Secrets are not looked up here"
        for variable in container.get("env", []):
            found[variable["name"]] = self._value(variable)
        return found

    def _value(self, variable: Manifest) -> str:
        if "value" in variable:
            return self.here(str(variable["value"]))
        reference = variable["valueFrom"]["secretKeyRef"]
        return self.secrets[reference["name"], reference["key"]]

    def command(self, container: Manifest, entrypoint: Sequence[str] = ()) -> list[str]:
        """The words of the container; the image's entry point where the manifest names none."""
        words = [*container.get("command", entrypoint), *container.get("args", [])]
        return [self.here(word) for word in words]


@dataclass
class Running:
    """One container as a process session of its own."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-2000:]

    def kill(self) -> None:
        """End it and all that it started, without a word."""
        session = [one for one in psutil.process_iter() if _session(one.pid) == self.process.pid]
        for one in session:
            try:
                one.kill()
            except psutil.Error:
                continue
        self.process.wait(END_SECONDS)


def start(place: Place, name: str, words: Sequence[str], environment: Mapping[str, str]) -> Running:
    """Start a container's process."""
    log = place.folder / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(words),
            env=dict(environment),
            cwd=place.folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(name, process, log)


def wait_ready(running: Running, probe: Manifest, port: int) -> None:
    """Wait until the container's HTTP probe is answered well."""
    url = f"http://127.0.0.1:{port}{probe['httpGet']['path']}"

    def is_ready() -> bool:
        assert running.process.poll() is None, running.said
        try:
            return httpx.get(url, timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    eventually(is_ready, f"{running.name} answers {url}", READY_SECONDS)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
