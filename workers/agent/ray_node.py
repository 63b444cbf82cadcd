"""One node of Ray as a process: how it is started, and when it is ready.

Nothing here imports Ray: the agent sets what Ray reads from the environment first.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

START_SECONDS = 60.0
END_SECONDS = 5.0  # from SIGTERM to SIGKILL
POLL_SECONDS = 0.05
OBJECT_STORE_BYTES = 100_000_000  # nothing large goes through Ray here
READY = b"Ray runtime started"
ZERO_PORTS = (  # any free one: several nodes may share a host
    "node-manager-port",
    "object-manager-port",
    "min-worker-port",
    "max-worker-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)
LAST_WORDS = 300  # characters of a line that a sentence can bear


class RayFailed(Exception):
    """A Ray can't be started or joined; the text says why."""


def start_command(words: Sequence[str]) -> list[str]:
    """`ray start` in the foreground with these further words."""
    return [
        *(sys.executable, "-c", "from ray.scripts.scripts import main; main()"),
        *("start", "--block", "--disable-usage-stats"),
        *(f"--{name}=0" for name in ZERO_PORTS),
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        *words,
    ]


def client_port() -> list[str]:
    """What keeps a head's Ray Client off its fixed port, which two heads would share silently."""
    if importlib.util.find_spec("grpc") is None:  # it is not opened at all
        return []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return [f"--ray-client-server-port={probe.getsockname()[1]}"]


def is_ready(process: subprocess.Popen[bytes], log_path: Path) -> bool:
    """Wait until the node has joined; False where it ended or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if READY in log_path.read_bytes():
            return True
        time.sleep(POLL_SECONDS)
    return False


class JoinedNode:
    """A node that has nothing to give: it is what lets this process speak with the cluster.

    It lives and dies with the agent; gangs live on the cluster's other nodes.
    """

    def __init__(self, address: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it has joined.

        Raises:
            RayFailed: it could not join.
        """
        # Open for as long as the node lives; `end` closes it.
        self._log = tempfile.NamedTemporaryFile(prefix="strata-node-", suffix=".log")  # noqa: SIM115
        words = [f"--address={address}", "--num-cpus=0", "--num-gpus=0"]
        self._process = subprocess.Popen(
            start_command(words),
            env=dict(os.environ if environment is None else environment),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait_ready(address)
        except BaseException:
            self.end()
            raise

    @property
    def is_alive(self) -> bool:
        """False once the node has ended."""
        return self._process.poll() is None

    def _wait_ready(self, address: str) -> None:
        path = Path(self._log.name)
        if not is_ready(self._process, path):
            said = path.read_text(errors="replace").strip().rpartition("\n")[2][:LAST_WORDS]
            raise RayFailed(
                f"no node could join the Ray at {address}; is it there, and are RAY_AUTH_MODE and "
                f"its token those of the cluster? Ray said: {said}"
            )

    def end(self) -> None:
        """Leave the cluster."""
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
