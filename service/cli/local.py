"""This machine's service, from outside: found, started, ended."""

import threading
import time

import click

from service.cli import processes
from service.cli.door import ServerDoor, find_client, server_door
from service.domain.errors import BadInput, Conflict, Refusal, Unreachable
from service.settings import Settings, make_home, read_settings

READY_SECONDS = 90.0  # a cold machine imports Ray for the first time
POLL_SECONDS = 0.05
HOLD_SECONDS = 90.0  # for a gang's checkpoint, beyond its grace
SERVER_END_SECONDS = 20.0


def ensure_server(settings: Settings) -> ServerDoor:
    """The door of a server that is ready, with an agent; started if there is none.

    Two at once are safe: the state folder's lock lets one server live, and both find it.

    Raises:
        Unreachable: it did not become ready; the sentence names its log.
    """
    if settings.url is not None:
        return server_door(settings)
    make_home(settings.home)
    deadline = time.monotonic() + READY_SECONDS
    started, has_said = None, False
    while time.monotonic() < deadline:
        door = _ready_door(settings)
        if door is not None:
            return door
        if not has_said:
            click.echo("starting the local service (database, server, Ray) ...", err=True)
            has_said = True
        if processes.living(settings.home, "server") is None and (
            started is None or started.poll() is not None
        ):
            if started is not None and started.poll() not in (0, Conflict.exit_code):
                break
            started = processes.spawn(settings.home, "server", ["server", "--embedded"])
        threading.Event().wait(POLL_SECONDS)
    raise Unreachable(
        "the local service does not come up",
        remedy=f"see {settings.home}/logs/server.log and agent.log, or run `strata doctor`",
    )


def _ready_door(settings: Settings) -> ServerDoor | None:
    """The door, once the server answers and an agent has told its nodes."""
    try:
        client = find_client(settings)
        if client is None or processes.living(settings.home, "agent") is None:
            return None
        found = client.get("/v1/nodes")
        is_silent = all(agent["is_silent"] for agent in found["agents"])
        return ServerDoor(client) if found["nodes"] and not is_silent else None
    except (Refusal, OSError):
        return None


@click.command()
def up() -> None:
    """Run this machine's service in the foreground: database, server, agent, Ray.

    Ctrl-C ends it. Jobs that run go on; the next `strata up` or `strata run` finds them again.
    """
    import logging

    from service.cli.embedded import serve

    settings = read_settings()
    if settings.url is not None:
        raise BadInput("is set: the service is elsewhere", place="STRATA_URL", remedy="unset it")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    serve(settings, ends_when_idle=False)


@click.command()
@click.option("--force", is_flag=True, help="Hold what runs at a checkpoint first.")
def down(force: bool) -> None:
    """End this machine's service: server, agent and Ray."""
    from service.cli.embedded import end_agent_and_ray

    settings = read_settings()
    client = find_client(settings) if settings.url is None else None
    if client is not None:
        door = ServerDoor(client)
        running = door.jobs(state=["running", "stopping"])
        if running and not force:
            raise Conflict(
                f"{len(running)} jobs are running", remedy="wait, or hold them: strata down --force"
            )
        _hold_all(door, [job["id"] for job in running])
    processes.end(settings.home, "server", SERVER_END_SECONDS)
    end_agent_and_ray(settings.home)
    processes.forget(settings.home, "server")
    click.echo(f"the service of {settings.home} has ended", err=True)


def _hold_all(door: ServerDoor, job_ids: list[str]) -> None:
    """Hold what runs, and wait until it stands."""
    for job_id in job_ids:
        try:
            door.client.post(f"{door.client.job(job_id)}/hold")
        except Conflict:
            continue  # it stops already, or has ended
    deadline = time.monotonic() + HOLD_SECONDS
    while time.monotonic() < deadline and door.jobs(state=["running", "stopping"]):
        threading.Event().wait(POLL_SECONDS)
