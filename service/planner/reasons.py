"""Why a job waits, in a sentence that its owner can act on."""

from collections.abc import Sequence
from datetime import UTC, datetime

from service.domain.resources import Resources
from service.planner.placement import Free, Gang
from service.planner.snapshot import Node, Running

ID_CHARS = 8  # how ids are shown: their last characters, which differ


def asked(gang: Gang) -> str:
    """As in `2 workers x (1 CPU, 0 GPUs)`."""
    return str(
        Resources.model_construct(
            workers=gang.workers,
            cpus_per_worker=gang.cpus_per_worker,
            gpus_per_worker=gang.gpus_per_worker,
        )
    )


def no_nodes() -> str:
    """Nothing could run anything."""
    return "no agent offers a node now; is `strata agent` running?"


def never_fits(gang: Gang, nodes: Sequence[Node]) -> str:
    """Larger than everything that is known, even idle."""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    largest_cpus = max(node.cpus for node in nodes)
    largest_gpus = max(node.gpus for node in nodes)
    return (
        f"needs {asked(gang)}; all {_count(len(nodes), 'node')} together have {cpus} CPUs and "
        f"{gpus} GPUs, the largest {largest_cpus} CPUs and {largest_gpus} GPUs, even when idle"
    )


def no_capacity(gang: Gang, free: Sequence[Free], running: Sequence[Running]) -> str:
    """It fits once others have ended."""
    cpus, gpus = sum(node.cpus for node in free), sum(node.gpus for node in free)
    on_one = ""
    if len(free) > 1:
        fullest = max(free, key=lambda node: (node.gpus, node.cpus))
        on_one = f", on one of them at most {fullest.cpus} CPUs and {fullest.gpus} GPUs"
    here = {node.node_id for node in free}
    holders = [one for one in running if any(share.node_id in here for share in one.shares)]
    return (
        f"needs {asked(gang)}; {cpus} CPUs and {gpus} GPUs are free on "
        f"{_count(len(free), 'node')}{on_one}{_until(holders)}"
    )


def behind(job_id: str) -> str:
    """Someone else is due first on the same nodes."""
    return f"job {job_id[-ID_CHARS:]} is due first on the same nodes"


def draining(attempt: int) -> str:
    """Its own last attempt is in its way."""
    return f"attempt {attempt} has ended, but not yet every process of it"


def backing_off(not_before_ms: int) -> str:
    """A retry waits a little; an instant, not a span, so that the sentence stays the same."""
    return f"tries again at {_clock(not_before_ms)}"


def _until(running: Sequence[Running]) -> str:
    """When the next of those that run ends, as far as that is known."""
    if not running:
        return ""
    ends = [(one.ends_at_ms, one.job_id) for one in running if one.ends_at_ms is not None]
    if ends:
        ends_at_ms, job_id = min(ends)
        return f" until job {job_id[-ID_CHARS:]} ends, at {_clock(ends_at_ms)} at the latest"
    return f" until one of {_count(len(running), 'running job')} ends"


def _clock(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%H:%M:%S} UTC"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
