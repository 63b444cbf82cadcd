"""An agent that is told to end while it joins a cluster leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.waiting import eventually

JOINS = """
import sys
from workers.agent.agent import AgentSettings, run_agent
run_agent(AgentSettings(
    name="a", service_urls=("http://127.0.0.1:9",), token="t", storage_url="/tmp",
    ray_address=sys.argv[1], joins=True,
))
"""
END_SECONDS = 30.0


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Where somebody takes connections and never says a word, as a head that is being born."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _nodes_of(pid: int) -> list[psutil.Process]:
    """The nodes of Ray that a process has started: not those which are only forked yet."""
    return [one for one in psutil.Process(pid).children() if "start" in one.cmdline()]


@pytest.mark.parametrize("word", [signal.SIGTERM, signal.SIGINT])
def test_the_node_that_it_starts_ends_with_it(silent_address: str, word: signal.Signals) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    agent = subprocess.Popen([sys.executable, "-c", JOINS, silent_address], env=environment)
    try:
        nodes = eventually(lambda: _nodes_of(agent.pid), "it starts a node")
        agent.send_signal(word)
        assert agent.wait(END_SECONDS) == 0
        _, left = psutil.wait_procs(nodes, timeout=END_SECONDS)
        assert left == []
    finally:
        agent.kill()
