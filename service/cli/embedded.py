"""The state folder's own server: one for each folder, with an agent beside it, until it is idle.

The folder's lock makes it one. Agent and Ray are process sessions of their own, so they live on
when this server is killed; the next one finds them by their records and goes on with them.
"""

import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from service.bootstrap import Service, build
from service.cli import processes
from service.domain.errors import BadInput, Conflict
from service.domain.job import JobState
from service.domain.records import Role
from service.http.auth import make_token, sha256_of
from service.http.server import Server, bind
from service.settings import Settings, make_home, write_secret
from service.store import schema
from service.store.engine import open_engine

HOST = "127.0.0.1"
AGENT = "local"
WATCH_SECONDS = 0.5  # how late a dead agent is noticed
RESTART_SECONDS = 1.0  # the first pause before a dead agent is started again; it doubles
RESTART_SECONDS_MAX = 30.0
STEADY_SECONDS = 30.0  # an agent that lived so long begins with the first pause again
AGENT_END_SECONDS = 10.0
OPEN_STATES = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.STOPPING})

log = logging.getLogger(__name__)


def serve(settings: Settings, *, ends_when_idle: bool) -> None:
    """Serve the state folder until told to stop, or idle.

    Raises:
        Conflict: another server serves it.
        BadInput: the port that running gangs report to is taken.
    """
    os.umask(0o077)  # whatever it makes is its owner's, database and checkpoints too
    make_home(settings.home)
    with _lock(settings.home):
        schema_engine = open_engine(settings.database_url)
        schema.upgrade(schema_engine)
        schema_engine.dispose()
        Path(settings.storage_url).mkdir(parents=True, exist_ok=True)
        service = build(settings)
        _ensure_tokens(settings.home, service)
        if processes.living(settings.home, "agent") is None:
            with service.store.write() as tx:
                tx.set_agent_silent(AGENT)  # the nodes that it told of are not there any more
        listener = _listen(settings.home, service)
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        service.start()
        server = Server(service.app)
        keeper = _AgentKeeper(settings, url)
        idle = _IdleWatch(settings, service, server) if ends_when_idle else None
        keeper.start()
        if idle is not None:
            idle.start()
        processes.record(settings.home, "server", os.getpid(), url=url)
        log.info("serving %s at %s", settings.home, url)
        try:
            server.run([listener])
        finally:
            keeper.stop()
            service.loop.stop()
            _end_what_is_idle(settings, service)
            service.close()


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Hold the folder; the kernel lets go of it however this process ends."""
    with (home / "server.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(f"another server serves {home}") from None
        yield


def _listen(home: Path, service: Service) -> socket.socket:
    """The port of the server before, because gangs report to it; else a free one."""
    before = processes.recorded(home, "server")
    if before is not None:
        try:
            return bind(HOST, int(before["url"].rpartition(":")[2]))
        except OSError as error:
            if service.store.attempts_not_gone():
                raise BadInput(
                    f"running jobs report to {before['url']}, and that port is taken",
                    remedy="end the process that has taken it",
                ) from error
    return bind(HOST, 0)


def _ensure_tokens(home: Path, service: Service) -> None:
    """Make the owner's and the agent's token, unless the files have them."""
    for file, name, is_agent in (("token", "local", False), ("agent_token", AGENT, True)):
        path = home / file
        if path.exists() and service.store.token(sha256_of(path.read_text().strip())):
            continue
        text, token = make_token(name, service.store.now(), role=Role.ADMIN, is_agent=is_agent)
        with service.store.write() as tx:
            tx.add_token(token)
        write_secret(path, text)


def _end_what_is_idle(settings: Settings, service: Service) -> None:
    """End agent, then Ray, unless a gang lives: then both go on, and so does the training."""
    if service.store.attempts_not_gone():
        log.info("jobs are running: the agent and Ray go on without this server")
        return
    end_agent_and_ray(settings.home)
    processes.forget(settings.home, "server")


def end_agent_and_ray(home: Path) -> None:
    """End the agent, then the local Ray; what a gang still runs there ends with it."""
    processes.end(home, "agent", AGENT_END_SECONDS)
    processes.forget(home, "agent")
    # By name: the service knows the workers' contract only, and an agent knows how Ray ends.
    import_module("workers.agent.local_ray").end_local_ray(home)


class _AgentKeeper:
    """Keeps one agent alive beside this server."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._home = settings.home
        self._url = url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agent-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        pause, child = RESTART_SECONDS, None
        started_at = 0.0
        while not self._stopping.is_set():
            found = processes.living(self._home, "agent")
            if found is not None and found.get("url") != self._url:
                processes.end(self._home, "agent", AGENT_END_SECONDS)  # it speaks to an old port
                found = None
            if found is None:
                if child is not None:
                    log.warning("the agent ended with %s; see logs/agent.log", child.poll())
                    is_steady = time.monotonic() - started_at > STEADY_SECONDS
                    pause = RESTART_SECONDS if is_steady else min(2 * pause, RESTART_SECONDS_MAX)
                    if self._stopping.wait(pause):
                        return
                child = processes.spawn(self._home, "agent", ["agent", "--embedded"])
                started_at = time.monotonic()
                processes.record(self._home, "agent", child.pid, url=self._url)
            self._stopping.wait(WATCH_SECONDS)
            if child is not None:
                child.poll()  # so that a dead one is no zombie


class _IdleWatch:
    """Ends the server once nobody has asked for anything, and nothing is to do, for a while."""

    def __init__(self, settings: Settings, service: Service, server: Server) -> None:
        self._seconds = settings.idle_seconds
        self._service = service
        self._server = server
        self._thread = threading.Thread(target=self._run, name="idle", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while self._idle_seconds() < self._seconds:
            threading.Event().wait(min(1.0, max(0.1, self._seconds - self._idle_seconds())))
        log.info("idle for %.0f s: ending", self._seconds)
        self._server.should_exit = True

    def _idle_seconds(self) -> float:
        state = self._service.app.state
        counts = self._service.store.count_jobs()
        if any(count and job_state in OPEN_STATES for (_, job_state), count in counts.items()):
            state.asked_at = time.monotonic()
        return time.monotonic() - float(state.asked_at)
