"""What is asked of the store, beside the records themselves."""

from dataclasses import dataclass

from service.domain.job import JobState
from service.domain.records import Reason
from service.domain.spec import JobSpec
from workers.contract.wire import JobId


@dataclass(frozen=True, slots=True)
class Why:
    """Who moves something, and why: the part of an event that is not in the table."""

    actor: str  # "user:anna", "scheduler", "reconciler", "gang", "agent:local"
    reason: Reason
    message: str = ""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that is about to be stored."""

    id: JobId
    key: str
    owner: str
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; None is any."""

    states: frozenset[JobState] | None = None
    queue: str | None = None
    project: str | None = None
    name: str | None = None
    before_seq: int | None = None  # a page: jobs submitted before this one
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Leadership:
    """A leader's term; every write that grants or frees capacity is made under it."""

    holder: str
    epoch: int
