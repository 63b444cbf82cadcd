"""What people are shown of a job: answers put together from several rows."""

from dataclasses import dataclass

from service.domain.records import Attempt, Checkpoint, Job, Measurement, Reason, Stage
from workers.contract.manifest import Manifest
from workers.contract.wire import JobId


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to a submit."""

    job: Job
    created: bool  # False: this key had submitted the same spec before


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job with all that is known of its course."""

    job: Job
    attempts: tuple[Attempt, ...]  # oldest first
    stages: tuple[Stage, ...]
    latest: Measurement | None
    checkpoint: Checkpoint | None  # the current one


@dataclass(frozen=True, slots=True)
class DryRun:
    """What would happen to a job if it were submitted now."""

    starts: bool
    reason: Reason
    sentence: str


@dataclass(frozen=True, slots=True)
class Verified:
    """A checkpoint after its bytes were compared with what was recorded."""

    job_id: JobId
    path: str
    manifest: Manifest | None  # None where damaged
    damage: str | None  # a sentence


@dataclass(frozen=True, slots=True)
class LogPart:
    """A part of one process's log; ask again with `cursor` for what follows."""

    job_id: JobId
    attempt: int
    who: str  # "driver", "rank-0", ...
    text: str
    cursor: str
