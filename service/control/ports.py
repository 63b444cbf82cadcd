"""What control needs of the world: a store, a bus and a clock.

The store is one class behind several narrow ports, so that each of control's files says what it
touches. Reads are short transactions of their own. Writes happen inside `write()`: everything in
the block is committed together or not at all, and wake-ups are sent after it.

A move names what it saw. If the row is no longer so, it raises Stale, nothing of the block is kept,
and the caller reads again. Every move writes its event in the same transaction.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from service.domain.asks import JobFilter, Leadership, NewJob, Why
from service.domain.job import AttemptMove, JobMove, JobState
from service.domain.records import (
    Agent,
    Attempt,
    Checkpoint,
    Event,
    Job,
    Measurement,
    RankShare,
    Reading,
    Reason,
    Stage,
    Token,
    Waiting,
)
from service.planner.snapshot import Snapshot
from workers.contract.checkpoint_spec import BetterIs
from workers.contract.inventory import CheckpointPath, NodeSeen
from workers.contract.outcome import FailureKind, Outcome, StopReason
from workers.contract.reports import (
    CheckpointWritten,
    Progress,
    StageEnded,
    StageStarted,
)
from workers.contract.wire import JobId


class Writes(Protocol):
    """What can be done inside one transaction; moves raise Stale, or IllegalMove."""

    def now(self) -> datetime:
        """The database's clock, UTC."""

    def add_job(self, new: NewJob) -> Job:
        """Store a QUEUED job with its event; Conflict where the key is taken by another spec.

        Where the key is taken by the same spec, return the job that has it.
        """

    def move_job(
        self,
        job: Job,
        move: JobMove,
        why: Why,
        *,
        stop_reason: StopReason | None = None,
        failure: FailureKind | None = None,
        not_before: datetime | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Job:
        """Move the job if (id, attempt, state) are as in `job`; return it as it then stands.

        Sets reason and text from `why`; stop_reason, failure, metrics where given (a REQUEUE or
        RELEASE clears the stop reason); not_before as given; finished_at where the goal is final.
        """

    def reserve(self, job: Job, agent: str, ranks: Sequence[RankShare], why: Why) -> Attempt:
        """Move the job by RESERVE and create attempt `job.attempt + 1` as RESERVED."""

    def move_attempt(
        self,
        attempt: Attempt,
        move: AttemptMove,
        why: Why,
        *,
        token_sha256: str | None = None,
        stop_reason: StopReason | None = None,
        outcome: Outcome | None = None,
        failure: FailureKind | None = None,
    ) -> Attempt:
        """Move the attempt if (job, number, state) are as in `attempt`; return it as it stands.

        START sets started_at, STOP stop_at, an outcome or BURY ended_at (once).
        """

    def note_outcome(self, attempt: Attempt, outcome: Outcome) -> Attempt:
        """Record an outcome where the attempt stays where it is: STOPPING already, or LOST."""

    def explain(self, job_id: JobId, reason: Reason, text: str) -> None:
        """Say why a queued job still waits; no event, and no error where it has moved."""

    def notice(self, job_id: JobId, attempt: int | None, actor: str, code: str, text: str) -> None:
        """Write an event that moves nothing; its reason is `code`."""

    def hold_facts(self, attempt: Attempt, up_to: int) -> None:
        """Record that facts are held up to `up_to`, and that the gang spoke now.

        Compares (job, number, held, not GONE, still the job's newest attempt); else Stale.
        """

    def mark_progress(self, job_id: JobId, attempt: int) -> None:
        """Record that the attempt wrote a new checkpoint."""

    def add_stage(self, job_id: JobId, attempt: int, fact: StageStarted) -> None:
        """Record that a stage began, or goes on; a complete stage stays complete."""

    def end_stage(self, job_id: JobId, attempt: int, fact: StageEnded) -> None:
        """Record a stage's figures; the stage may be new to this store."""

    def add_measurements(
        self, job_id: JobId, attempt: int, lines: Sequence[tuple[datetime, Progress]]
    ) -> None:
        """Add lines to the job's curves, in the order in which they were told."""

    def add_checkpoint(self, job_id: JobId, fact: CheckpointWritten, at: datetime) -> bool:
        """Record a checkpoint; False where it is already there (its path is unique)."""

    def ask_prune(self, job_id: JobId, keep_last: int, better: BetterIs | None = None) -> None:
        """Ask for the deletion of all but the newest `keep_last` of the job's checkpoints.

        Pinned ones stay, and so does the best by its figure where `better` says what that means.
        """

    def ask_profile(self, attempt: Attempt, steps: int) -> None:
        """Order the attempt's gang to trace its next steps; a newer order has a higher number.

        Stale where the attempt is not as it was seen.
        """

    def pin(self, job_id: JobId, path: str, pinned: bool) -> bool:
        """Keep a checkpoint whatever comes, or no more; False where its deletion was asked for.

        Whoever else pins it waits until this transaction is over.
        """

    def heir(self, path: str) -> JobId | None:
        """A job that begins from this checkpoint and is not final yet, or None."""

    def see_agent(self, name: str, cluster_id: str, boot_id: str, nodes: Sequence[NodeSeen]) -> int:
        """Record an agent's word and its nodes (those not named are gone); return a new revision.

        Conflict where a newer boot of the same cluster, or another cluster whose lease lives, has
        the name. The revision grows with every call.
        """

    def mark_pruned(self, agent: str, paths: Sequence[CheckpointPath]) -> None:
        """Record that an agent deleted these checkpoints, as far as it was asked.

        Those of jobs that it never had are passed over.
        """

    def set_agent_silent(self, name: str) -> bool:
        """Make an agent's nodes unschedulable; False where it already was so."""

    def add_token(self, token: Token) -> None:
        """Record a token."""

    def revoke_token(self, name: str) -> int:
        """Revoke every token of that name; return how many."""


class Writable(Protocol):
    """A store that can be written."""

    def write(self, leader: Leadership | None = None) -> AbstractContextManager[Writes]:
        """One transaction; under `leader` it begins by locking that term, else raises NotLeader."""


class JobStore(Writable, Protocol):
    """Jobs, as people ask for them."""

    def job(self, job_id: JobId) -> Job | None:
        """The job, or None."""

    def job_of_key(self, key: str) -> Job | None:
        """The job that was submitted under this idempotency key, or None."""

    def jobs_like(self, part: str, limit: int, project: str | None = None) -> list[Job]:
        """Jobs (of a project) whose id begins, or ends, so, newest first."""

    def jobs(self, wanted: JobFilter) -> list[Job]:
        """Jobs, newest first."""

    def count_jobs(self) -> Mapping[tuple[str, JobState], int]:
        """How many jobs are in each (queue, state)."""

    def waiting(self) -> list[Waiting]:
        """The queued jobs, by queue and reason."""

    def attempt(self, job_id: JobId, number: int) -> Attempt | None:
        """One attempt, or None."""

    def attempts(self, job_id: JobId) -> list[Attempt]:
        """All attempts of a job, oldest first."""

    def events(
        self, job_id: JobId, after_id: int, limit: int, reasons: Iterable[str] | None = None
    ) -> list[Event]:
        """The job's events in order, after the one with this id; with reasons, only those."""


class Telemetry(Protocol):
    """What gangs told, for those who ask."""

    def stages(self, job_id: JobId) -> list[Stage]:
        """The job's stages in order, as far as they began."""

    def latest(self, job_id: JobId) -> Measurement | None:
        """The newest line of the job's curves."""

    def readings(self, ended_since: datetime) -> list[Reading]:
        """Every job with a curve that is RUNNING or STOPPING, or has ended since then."""

    def measurements(
        self, job_id: JobId, limit: int, before_id: int | None = None
    ) -> list[Measurement]:
        """The job's curves in order, the newest `limit` lines, or of those before this one."""

    def first_line(self, job_id: JobId, stage_index: int) -> Measurement | None:
        """The oldest line of the job's curves that is of this stage, or None."""

    def checkpoints(self, job_id: JobId) -> list[Checkpoint]:
        """The job's checkpoints, newest first; of pruned ones only the newest."""

    def current_checkpoint(self, job_id: JobId) -> Checkpoint | None:
        """The job's newest checkpoint that is not pruned, or None."""


class FleetStore(JobStore, Telemetry, Protocol):
    """Agents and the attempts that they carry."""

    def agents(self) -> list[Agent]:
        """All agents that ever spoke."""

    def nodes(self) -> list[tuple[str, NodeSeen]]:
        """Every known node with its agent's name, also those of silent agents."""

    def attempts_of_agent(self, agent: str) -> list[Attempt]:
        """The agent's attempts that are not GONE, oldest first."""

    def attempts_not_gone(self) -> list[Attempt]:
        """All attempts that still hold nodes."""

    def holdings(self) -> list[tuple[str, Attempt]]:
        """All attempts that still hold nodes, each with its job's queue."""

    def to_prune(self, agent: str, limit: int) -> list[CheckpointPath]:
        """Checkpoints to be deleted, of jobs whose newest attempt was this agent's."""

    def now(self) -> datetime:
        """The database's clock, UTC."""


class PlanStore(JobStore, Protocol):
    """What the scheduler reads, and who may write."""

    def snapshot(self) -> Snapshot:
        """The world for a plan, read in one transaction."""

    def take_lead(self, name: str, holder: str, lease_seconds: float) -> Leadership | None:
        """Take, or renew, the lease `name` by the database's clock; None while another has it.

        Taking it over from another holder, or after it expired, begins a new epoch.
        """

    def drop_lead(self, name: str, term: Leadership) -> None:
        """Give the lease up, so that the heir need not wait."""


class TokenStore(Writable, Protocol):
    """Who may open which door."""

    def token(self, sha256: str) -> Token | None:
        """The record of a token that is neither expired nor revoked."""

    def tokens(self) -> list[Token]:
        """All records, newest first."""

    def attempt_of_token(self, sha256: str) -> Attempt | None:
        """The attempt whose gang holds this token."""


class Bus(Protocol):
    """Hints, never facts: a message may be lost or come twice; the store is the truth.

    Topics: "queue" (something may be planned), "agent/<name>" (its answer may have changed),
    "job/<id>" (something of it changed).
    """

    @property
    def poll_seconds(self) -> float:
        """How long who waits may wait without looking by itself."""

    @property
    def trouble(self) -> str | None:
        """Why wake-ups may be lost now, as a sentence; None while all is well."""

    def wake(self, topic: str) -> None:
        """Wake whoever waits on the topic; a wake-up before the wait is not lost to a listener."""

    def listen(self, topic: str, on_wake: Callable[[], None]) -> Callable[[], None]:
        """Call `on_wake` (from any thread, quickly) at each wake-up; return what ends it."""

    def start(self) -> None:
        """Begin to carry wake-ups."""

    def close(self) -> None:
        """End; a second call changes nothing."""


class Clock(Protocol):
    """Time inside one process, for what is not compared between processes."""

    def monotonic(self) -> float:
        """Seconds from some beginning; never goes back."""
