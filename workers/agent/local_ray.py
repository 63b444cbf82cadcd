"""A Ray of this machine alone, that outlives its agent and lives beside other Rays.

It is a process session of its own, recorded in `ray.json` of the state folder. Ray listens on all
interfaces whatever it is told, so its token is the guard: it lies in the state folder, readable by
its owner only, and never in `~/.ray`.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from workers.agent.ray_node import END_SECONDS, RayFailed, client_port, is_ready, start_command

RECORD = "ray.json"
FOLDER_PREFIX = "strata-"
TOKEN = "ray_token"  # noqa: S105  # a file's name


@dataclass(frozen=True)
class LocalRay:
    """What is recorded of a local Ray."""

    pid: int
    started_at: float  # of the process, as the kernel says: a pid alone may be another's by now
    address: str
    folder: str  # Ray's own temporary folder


def ensure_local_ray(home: Path, cpus: int) -> LocalRay:
    """Return the state folder's Ray, started if there is none."""
    found = living_ray(home)
    if found is not None:
        return found
    end_local_ray(home)  # what a crash may have left
    return _start(home, cpus)


def living_ray(home: Path) -> LocalRay | None:
    """The recorded Ray, if its process lives."""
    try:
        recorded = LocalRay(**json.loads((home / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    try:
        is_same = abs(psutil.Process(recorded.pid).create_time() - recorded.started_at) < 1.0
    except psutil.Error:
        return None
    return recorded if is_same else None


def end_local_ray(home: Path) -> None:
    """End the recorded Ray and everything of its session; no other Ray is touched."""
    try:
        recorded = LocalRay(**json.loads((home / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return
    members = _session(recorded.pid, recorded.started_at)
    for process in members:
        if process.pid == recorded.pid:
            _signal(process, signal.SIGTERM)
    psutil.wait_procs(members, timeout=END_SECONDS)
    _kill_session(recorded.pid, recorded.started_at)
    (home / RECORD).unlink(missing_ok=True)
    _delete(Path(recorded.folder))


def environment(home: Path) -> dict[str, str]:
    """What every process needs that speaks with this Ray."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token(home)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "2",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def _start(home: Path, cpus: int) -> LocalRay:
    # Names of sockets end at 107 bytes, so Ray's folder can't lie in a state folder of any depth.
    # Ray opens its folder to everybody, hence one around it: mode 0700 and a random name.
    folder = f"{tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir='/tmp')}/ray"
    log_path = home / "logs" / "ray.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            _command(cpus, folder),
            env={**_inherited(), **environment(home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started_at = psutil.Process(process.pid).create_time()
    address = _wait_address(process, Path(folder), log_path)
    if address is None:
        _kill_session(process.pid, started_at)
        process.wait()
        _delete(Path(folder))
        raise RayFailed(f"the local Ray did not start; its last words are in {log_path}")
    ray = LocalRay(process.pid, started_at, address, folder)
    record = home / RECORD
    record.write_text(json.dumps(asdict(ray)))
    record.chmod(0o600)
    return ray


def _command(cpus: int, folder: str) -> list[str]:
    offers = ["--head", "--port=0", f"--num-cpus={cpus}", f"--temp-dir={folder}"]
    quiet = ["--include-dashboard=false", "--include-log-monitor=false"]
    return start_command([*offers, *quiet, *client_port()])


def _inherited() -> dict[str, str]:
    """Our environment, without another Ray's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def _wait_address(process: subprocess.Popen[bytes], folder: Path, log_path: Path) -> str | None:
    """Where the Ray listens, once it does; None where it ended or takes too long."""
    if is_ready(process, log_path):
        for file in folder.glob("session_latest/gcs_server_port_*"):
            return f"{_host()}:{file.read_text().strip()}"
    return None


def _host() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def _token(home: Path) -> Path:
    path = home / TOKEN
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    return path


def _session(leader: int, started_at: float) -> list[psutil.Process]:
    """The living processes of a session; none if its leader's pid is another process by now."""
    members = []
    for process in psutil.process_iter():
        try:
            is_member = os.getsid(process.pid) == leader
            if process.pid == leader and abs(process.create_time() - started_at) > 1.0:
                return []
        except (ProcessLookupError, psutil.Error):
            continue
        if is_member:
            members.append(process)
    return members


def _kill_session(leader: int, started_at: float) -> None:
    members = _session(leader, started_at)
    for process in members:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(members, timeout=END_SECONDS)


def _delete(folder: Path) -> None:
    """Delete a Ray's folder with the one around it, if that is one of ours."""
    if folder.parent.name.startswith(FOLDER_PREFIX):
        shutil.rmtree(folder.parent, ignore_errors=True)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return  # it ended by itself
