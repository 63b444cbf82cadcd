"""`strata doctor`: looks at all that has to be right, and says what to do where it is not."""

import importlib.util
import json
import os
import stat
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from service.cli import processes
from service.cli.door import find_client
from service.cli.render import counted, output_option, print_json, print_table
from service.domain.errors import Refusal
from service.settings import Settings, make_home, read_settings

UNWELL = 1
OTHERS = stat.S_IRWXG | stat.S_IRWXO
SECRETS = ("token", "agent_token", "ray_token")
PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    is_well: bool
    sentence: str


@click.command()
@output_option
def doctor(output: str) -> None:
    """Find out what is wrong here, and what to do; exit code 1 where something is."""
    settings = read_settings()
    findings = [finding for look in LOOKS for finding in look(settings)]
    if output == "json":
        print_json({"findings": [vars(finding) for finding in findings]})
    else:
        rows = [(one.what, "well" if one.is_well else "UNWELL", one.sentence) for one in findings]
        print_table(("what", "", ""), rows)
    if not all(finding.is_well for finding in findings):
        sys.exit(UNWELL)


def _home(settings: Settings) -> Iterator[Finding]:
    try:
        make_home(settings.home)
    except Refusal as refusal:
        yield Finding("state folder", False, str(refusal))
        return
    yield Finding("state folder", True, str(settings.home))
    for name in SECRETS:
        path = settings.home / name
        if path.exists() and path.stat().st_mode & OTHERS:
            yield Finding(name, False, f"others can read it; chmod 600 {path}")


def _storage(settings: Settings) -> Iterator[Finding]:
    from fsspec.core import url_to_fs

    try:
        files, place = url_to_fs(f"{settings.storage_url}/.doctor-{os.getpid()}")
        files.makedirs(place.rpartition("/")[0], exist_ok=True)
        files.pipe_file(place, b"well")
        files.rm(place)
    except Exception as error:  # noqa: BLE001  # any storage's own errors
        yield Finding("storage", False, f"{settings.storage_url} can't be written: {error}")
        return
    yield Finding("storage", True, settings.storage_url)


def _database(settings: Settings) -> Iterator[Finding]:
    from service.store import schema
    from service.store.engine import open_engine

    place = Path(settings.database_url.removeprefix("sqlite:///"))
    if settings.database_url.startswith("sqlite:") and not place.exists():
        yield Finding("database", True, "not there yet; the first job makes it")
        return
    try:
        state = schema.check(open_engine(settings.database_url))
    except Refusal as refusal:
        yield Finding("database", False, str(refusal))
        return
    yield Finding("database", state.is_acceptable, state.sentence)


def _server(settings: Settings) -> Iterator[Finding]:
    try:
        client = find_client(settings)
        if client is None:
            yield Finding("server", True, "does not run; `strata run` and `strata up` start it")
            return
        nodes = client.get("/v1/nodes")
    except Refusal as refusal:
        yield Finding("server", False, str(refusal))
        return
    url = settings.url or (processes.recorded(settings.home, "server") or {}).get("url", "")
    yield Finding("server", True, url)
    yield _ready(url)
    silent = [agent["name"] for agent in nodes["agents"] if agent["is_silent"]]
    cpus = sum(node["cpus"] for node in nodes["nodes"])
    gpus = sum(node["gpus"] for node in nodes["nodes"])
    sentence = f"{counted(len(nodes['nodes']), 'node')} with {cpus} CPUs and {gpus} GPUs"
    if not nodes["nodes"]:
        yield Finding("agents", False, "no agent offers a node; see logs/agent.log")
    elif silent:
        yield Finding("agents", False, f"{', '.join(silent)} are silent; start them again")
    else:
        yield Finding("agents", True, sentence)


def _ready(url: str) -> Finding:
    try:
        # The URL is the owner's own, from the settings: http or https.
        with urllib.request.urlopen(f"{url}/readyz", timeout=PROBE_SECONDS) as answer:  # noqa: S310
            told = json.load(answer)
    except (OSError, ValueError) as error:
        return Finding("readiness", False, f"{url}/readyz: {error}")
    if "degraded" in told:
        sentence = f"degraded: {told['degraded']}; nothing is lost, changes are seen a poll later"
        return Finding("readiness", False, sentence)
    return Finding("readiness", True, str(told.get("status")))


def _redis(settings: Settings) -> Iterator[Finding]:
    if settings.redis_url is None:
        return
    from redis import Redis, RedisError

    try:
        with Redis.from_url(settings.redis_url, socket_timeout=PROBE_SECONDS) as client:
            client.ping()
    except (RedisError, ValueError, OSError) as error:
        sentence = f"does not answer ({error}); jobs go on, changes are seen a poll later"
        yield Finding("redis", False, sentence)
        return
    yield Finding("redis", True, "answers")


def _left_over(settings: Settings) -> Iterator[Finding]:
    """A Ray or an agent without their server: a crash left them, or a job still runs."""
    if settings.url is not None or processes.living(settings.home, "server") is not None:
        return
    for name in ("agent", "ray"):
        if processes.living(settings.home, name) is not None:
            sentence = "runs without a server; `strata up` takes it over, `strata down` ends it"
            yield Finding(name, False, sentence)


def _worker_side(settings: Settings) -> Iterator[Finding]:
    missing = [name for name in ("ray", "torch") if importlib.util.find_spec(name) is None]
    if missing and settings.url is None:
        what = " and ".join(missing)
        yield Finding("workers", False, f"{what} is missing; pip install 'strata[worker]'")
    else:
        yield Finding("workers", True, "installed" if not missing else "elsewhere")


LOOKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _home,
    _storage,
    _database,
    _redis,
    _server,
    _left_over,
    _worker_side,
)
