"""`strata agent`: loads the workers' side by name, because only an agent needs Ray."""

import importlib
import logging
import os

import click

from service.cli import processes
from service.domain.errors import BadInput, Conflict, Unreachable
from service.settings import Settings, make_home, read_settings


@click.command()
@click.option("--address", metavar="HOST:PORT", help="The Ray cluster's GCS; a node of it is here.")
@click.option("--join", is_flag=True, help="Start a node of it here, which offers nothing.")
@click.option("--name", default="local", show_default=True, help="One for each cluster.")
@click.option("--url", "urls", multiple=True, help="A server; may be repeated. [STRATA_URL]")
@click.option("--embedded", is_flag=True, help="For the state folder's server and a local Ray.")
def agent(
    address: str | None, join: bool, name: str, urls: tuple[str, ...], embedded: bool
) -> None:
    """Run an agent: it asks the server which gangs should run on its Ray, and sees to it.

    STRATA_TOKEN is the agent's token, made by `strata tokens create --agent NAME`.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    settings = read_settings()
    try:
        local_ray = importlib.import_module("workers.agent.local_ray")
        if embedded:  # before Ray is imported: it reads its environment then, and never again
            make_home(settings.home)
            os.environ.update(local_ray.environment(settings.home))
        module = importlib.import_module("workers.agent.agent")
    except ModuleNotFoundError as error:
        raise BadInput(
            f"an agent needs {error.name}", remedy="pip install 'strata[worker]'"
        ) from error
    words = _of_home(settings) if embedded else _given(settings, address, urls)
    words |= {"name": name, "storage_url": settings.storage_url, "joins": join and not embedded}
    failed = importlib.import_module("workers.agent.ray_node").RayFailed
    replaced = importlib.import_module("workers.agent.service_client").Replaced
    try:
        module.run_agent(module.AgentSettings(**words))
    except failed as error:
        raise Unreachable(str(error)) from error
    except replaced as error:
        raise Conflict(str(error), remedy="one agent has a name") from error


def _of_home(settings: Settings) -> dict[str, object]:
    """What the state folder says."""
    server = processes.recorded(settings.home, "server")
    record = processes.recorded(settings.home, "agent")
    url = (record or {}).get("url") or (server or {}).get("url")
    if url is None:
        raise Unreachable(f"no server is recorded in {settings.home}", remedy="run `strata up`")
    return {
        "service_urls": (url,),
        "token": (settings.home / "agent_token").read_text().strip(),
        "home": settings.home,
        "local_cpus": settings.local_cpus,
    }


def _given(settings: Settings, address: str | None, urls: tuple[str, ...]) -> dict[str, object]:
    """What the options and the environment say."""
    if address is None:
        raise BadInput("is missing", place="--address", remedy="name the cluster's GCS: HOST:PORT")
    service_urls = urls or ((settings.url,) if settings.url else ())
    if not service_urls:
        raise BadInput("is missing", place="--url", remedy="name a server, or set STRATA_URL")
    if settings.token is None:
        raise BadInput("is missing", place="STRATA_TOKEN", remedy="strata tokens create --agent")
    return {"service_urls": service_urls, "token": settings.token, "ray_address": address}
