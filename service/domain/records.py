"""The rows as values: a job, its attempts, and what is kept beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service.domain.job import (
    FINAL_JOB_STATES,
    OPEN_ATTEMPT_STATES,
    AttemptState,
    JobState,
)
from service.domain.spec import JobSpec
from service.domain.told import Told
from workers.contract.outcome import FailureKind, Outcome, StopReason
from workers.contract.reports import CheckpointRef, ProfileOrder, Progress, StageKind
from workers.contract.wire import JobId


class Reason(StrEnum):
    """Why a job or an attempt is where it is; stored as text, so that old readers survive."""

    SUBMITTED = "submitted"
    NO_NODES = "no_nodes"  # no schedulable node is known
    NEVER_FITS = "never_fits"  # larger than every known node, even idle
    NO_CAPACITY = "no_capacity"  # fits once others have ended
    BEHIND = "behind"  # an earlier or more urgent job waits for the same nodes
    BACKING_OFF = "backing_off"  # not before a retry's delay is over
    DRAINING = "draining"  # the last attempt's processes are not yet proved gone
    RESERVED = "reserved"
    CLAIMED = "claimed"
    STARTED = "started"
    OUTCOME = "outcome"
    RETRY = "retry"
    PROVED_GONE = "proved_gone"
    NOT_CLAIMED = "not_claimed"
    START_TIMEOUT = "start_timeout"
    SILENT = "silent"
    OWNER = "owner"  # its owner asked for it


@dataclass(frozen=True, slots=True)
class Job:
    """One job, as it stands."""

    id: JobId
    seq: int  # order of submission
    key: str  # the client's idempotency key
    owner: str
    spec: JobSpec
    state: JobState
    reason: Reason
    reason_text: str  # a sentence for its owner
    stop_reason: StopReason | None  # while STOPPING, and how it then ended
    failure: FailureKind | None  # of the last attempt that failed
    attempt: int  # the number of the newest attempt, 0 before the first: the fence
    submitted_at: datetime
    not_before: datetime | None
    started_at: datetime | None  # of the first attempt
    finished_at: datetime | None
    metrics: Mapping[str, float]  # the final ones

    @property
    def is_final(self) -> bool:
        """True once nothing can move it any more."""
        return self.state in FINAL_JOB_STATES


@dataclass(frozen=True, slots=True)
class Waiting:
    """The queued jobs of one queue that wait for one reason."""

    queue: str
    reason: Reason
    count: int
    oldest_at: datetime  # when the one that has waited longest was submitted


@dataclass(frozen=True, slots=True)
class RankShare:
    """What one rank holds of a node."""

    rank: int
    node_id: str
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a job, as it stands."""

    job_id: JobId
    number: int
    state: AttemptState
    agent: str
    ranks: tuple[RankShare, ...]
    token_sha256: str | None  # of the gang's token; set by the claim
    held: int  # facts are held up to this sequence number
    reason: Reason
    reason_text: str
    stop_reason: StopReason | None
    outcome: Outcome | None
    failure: FailureKind | None
    made_progress: bool
    reserved_at: datetime
    started_at: datetime | None
    heard_at: datetime | None  # the gang's last word
    stop_at: datetime | None  # when it was told to stop
    ended_at: datetime | None  # its outcome, or its burial
    profile: ProfileOrder | None = None  # the newest order to trace steps

    @property
    def is_open(self) -> bool:
        """True while it stands in the way of a next attempt."""
        return self.state in OPEN_ATTEMPT_STATES


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the append-only log; the moves in it replay to the rows."""

    id: int
    job_id: JobId
    attempt: int | None  # None: it is about the job itself
    at: datetime
    actor: str
    move: str  # a JobMove or AttemptMove, "submit", or "notice"
    source: str | None
    goal: str | None
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a job; the figures are there once it has ended."""

    job_id: JobId
    index: int
    count: int
    name: str
    kind: StageKind
    epochs: int
    attempt: int  # that ended it, or works on it
    loss_first: float | None
    loss_last: float | None
    seconds: float | None  # None while it is not complete
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that the service accepted; the newest one that is not pruned is current."""

    job_id: JobId
    ref: CheckpointRef
    bytes: int
    files: int
    save_seconds: float
    stall_seconds: float
    written_at: datetime
    figure: float | None  # of the recipe's `checkpoint.best`, where its net was evaluated
    pinned: bool  # its owner wants it kept
    prune_asked: bool
    pruned: bool


@dataclass(frozen=True, slots=True)
class Measurement:
    """One line of a job's curves."""

    id: int  # rises in the order of telling
    job_id: JobId
    attempt: int
    at: datetime
    progress: Progress


@dataclass(frozen=True, slots=True)
class Reading:
    """A job that trains, or has ended lately, as its metrics show it."""

    job_id: JobId
    name: str
    queue: str
    workers: int
    told: Told
    kind: StageKind | None  # of the stage that the newest line is of; None: it was not told
    checkpoint: Checkpoint | None  # the current one


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent and the cluster that it speaks for."""

    name: str
    cluster_id: str
    boot_id: str
    heard_at: datetime
    is_silent: bool


class Role(StrEnum):
    """What a person's token opens; each includes the ones before it."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Token:
    """A token's record; the token itself is shown once and never stored."""

    sha256: str
    name: str  # the person's, or the agent's
    is_agent: bool
    role: Role  # of a person; an agent's opens its own door only
    project: str | None  # None: every project
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
