"""What an agent tells about its cluster, and which gangs it is told should run there."""

from enum import StrEnum

from pydantic import field_validator

from workers.contract.outcome import StopReason
from workers.contract.wire import CONTRACT_VERSION, JobId, Message


class NodeSeen(Message):
    """A node of the agent's Ray cluster; capacity, not what is free."""

    node_id: str
    host: str
    cpus: int
    gpus: int
    gpu_type: str | None = None
    memory_bytes: int = 0
    labels: dict[str, str] = {}


class GangState(StrEnum):
    """What the agent knows of a gang that it was told of."""

    ALIVE = "alive"  # its driver or one of its ranks lives
    ABSENT = "absent"  # proof: neither its driver nor any rank lives
    UNBORN = "unborn"  # this agent claimed it, but could not start it: nothing of it ever lived


class GangSeen(Message):
    """One gang, as the agent sees it."""

    job_id: JobId
    attempt: int
    state: GangState
    cause: str = ""  # why it could not be started, or why its driver died, where known


class CheckpointPath(Message):
    """A checkpoint folder below the storage root."""

    job_id: JobId
    path: str


class Sync(Message, defer_build=False):  # FastAPI looks inside at once
    """POST /v1/agents/{name}/sync: everything the agent sees, whole, each time."""

    version: int = CONTRACT_VERSION
    cluster_id: str  # of the Ray cluster; another one is refused while this one's lease lives
    boot_id: str  # of this agent process: a UUIDv7, so that a newer boot sorts after an older
    nodes: tuple[NodeSeen, ...]
    gangs: tuple[GangSeen, ...]
    pruned: tuple[CheckpointPath, ...] = ()
    known: str = ""  # the fingerprint of the last answer; the service waits while nothing differs
    wait_seconds: float = 0.0

    @field_validator("nodes")
    @classmethod
    def _each_node_once(cls, nodes: tuple[NodeSeen, ...]) -> tuple[NodeSeen, ...]:
        if len({node.node_id for node in nodes}) < len(nodes):
            raise ValueError("a node is named twice")
        return nodes


class GangWanted(Message):
    """A gang that should exist here; `unclaimed` ones are to be claimed and started."""

    job_id: JobId
    attempt: int
    unclaimed: bool


class GangStop(Message):
    """A gang to be killed by name: its grace is over, or it was given up."""

    job_id: JobId
    attempt: int
    reason: StopReason


class SyncAnswer(Message):
    """What should be so. Absence from it is never an order; an older revision is dropped."""

    version: int = CONTRACT_VERSION
    revision: int
    fingerprint: str
    gangs: tuple[GangWanted, ...] = ()
    stops: tuple[GangStop, ...] = ()
    prune: tuple[CheckpointPath, ...] = ()
