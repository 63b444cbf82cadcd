"""The frozen world that a plan is made on: integers only, so that the same world gives one plan."""

from dataclasses import dataclass

from service.domain.records import Reason
from workers.contract.wire import JobId


@dataclass(frozen=True, slots=True)
class Node:
    """A node on which new ranks may be placed: its agent speaks, and it was there at last sight."""

    id: str
    agent: str
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Share:
    """What a rank holds of a node."""

    node_id: str
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Running:
    """An attempt that is not proved gone; it holds its nodes, also while it stops or is lost."""

    job_id: JobId
    attempt: int
    shares: tuple[Share, ...]
    ends_at_ms: int | None  # planned end; None where the job has no max_duration


@dataclass(frozen=True, slots=True)
class Pending:
    """A queued job."""

    job_id: JobId
    seq: int
    attempt: int  # of the last attempt; the next one gets this plus one
    queue: str
    tenant: str
    priority: int
    submitted_at_ms: int
    not_before_ms: int | None
    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    avoid_nodes: frozenset[str] = frozenset()  # where the last attempt failed: others first
    is_draining: bool = False  # the last attempt is not proved gone, and stands in the way


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a plan may look at."""

    now_ms: int
    nodes: tuple[Node, ...]
    running: tuple[Running, ...]
    pending: tuple[Pending, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """A gang to be started: the node of each rank, all of them of one agent."""

    job_id: JobId
    attempt: int  # of the last attempt, as the snapshot saw it
    agent: str
    shares: tuple[Share, ...]  # in the order of ranks


@dataclass(frozen=True, slots=True)
class Waits:
    """Why a job does not start, in a code and a sentence."""

    job_id: JobId
    reason: Reason
    sentence: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do; every pending job is in `starts` or in `waits`."""

    starts: tuple[Start, ...]
    waits: tuple[Waits, ...]
