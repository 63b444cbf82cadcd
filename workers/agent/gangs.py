"""The gangs of one Ray cluster: which live, and how one is started or killed."""

import hashlib
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from fsspec.core import url_to_fs
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from workers.contract.inventory import CheckpointPath
from workers.contract.launch import LaunchSpec
from workers.contract.paths import join
from workers.contract.wire import JobId
from workers.gang.driver import Driver
from workers.gang.ray_gang import NAMESPACE, driver_name

log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class GangKey:
    """One attempt of one job."""

    job_id: JobId
    attempt: int


def living() -> Mapping[GangKey, frozenset[str]]:
    """The names of every gang's living actors; a gang without any is not in it."""
    found: dict[GangKey, set[str]] = {}
    for name in ray.util.list_named_actors():
        kind, _, rest = name.partition("/")
        parts = rest.split("/")
        if kind in ("gang", "rank") and len(parts) >= 2 and parts[1].isdigit():
            found.setdefault(GangKey(JobId(parts[0]), int(parts[1])), set()).add(name)
    return {key: frozenset(names) for key, names in found.items()}


def new_token() -> tuple[str, str]:
    """A gang's token, and the hash that the service may know."""
    token = secrets.token_urlsafe(32)
    return token, hashlib.sha256(token.encode()).hexdigest()


def start(launch: LaunchSpec, urls: Sequence[str], token: str, entry: str) -> None:
    """Start a gang's driver on the first node of its plan, and let it go."""
    actor = ray.remote(Driver).options(
        name=driver_name(launch.job_id, launch.attempt),
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        max_restarts=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(launch.ranks[0].node_id, soft=False),
    )
    actor.remote().run.remote(launch.model_dump_json(), list(urls), token, entry)


def kill(names: frozenset[str]) -> None:
    """Kill a gang's driver, with which its ranks die; then any rank that is left.

    What could not be killed and lives is named by the service again.
    """
    for name in sorted(names):  # "gang/..." sorts before "rank/..."
        try:
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
        except (ValueError, RayError):
            log.info("%s has ended by itself", name)
        except Exception as error:  # noqa: BLE001  # of one that is just ending, Ray forgets the class
            log.info("%s can't be killed, so it ends by itself: %r", name, error)


def prune(storage_url: str, path: CheckpointPath) -> bool:
    """Delete a checkpoint's folder; True once it is not there."""
    folder = f"jobs/{path.job_id}/checkpoints/"
    name = path.path.removeprefix(folder)
    if not path.path.startswith(folder) or not name or "/" in name or name.startswith("."):
        log.error("%s is no checkpoint of job %s: not deleted", path.path, path.job_id)
        return False
    files, place = url_to_fs(join(storage_url, path.path))
    try:
        files.rm(place, recursive=True)
    except FileNotFoundError:
        return True
    except Exception as error:  # noqa: BLE001  # any storage's own errors; asked again next time
        log.warning("%s is not deleted: %r", path.path, error)
        return False
    return True
