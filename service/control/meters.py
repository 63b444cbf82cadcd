"""What this server itself counts and times, for /metrics; all else is read from the store there."""

from datetime import timedelta
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Histogram

from service.control.endings import Verdict
from service.domain.job import JobMove
from service.domain.records import Attempt, Job
from workers.contract.outcome import FailureKind

WAIT_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400)  # a moment to a day
DISPATCH_BUCKETS = (0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)  # up to the limit of a start
RUN_BUCKETS = (10, 60, 300, 900, 3600, 14_400, 43_200, 86_400, 604_800)  # seconds to a week
PASS_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.5, 10)
STOPPED = "stopped"  # the kind of a retry after an attempt that did not fail


class CheckpointTrouble(StrEnum):
    """Why a checkpoint is not there when it is wanted."""

    NOT_SAVED = "not_saved"  # the gang could not write it, and trains on
    DAMAGED = "damaged"  # a gang passed it over when it was to begin from it
    REFUSED = "refused"  # the gang told of one that can't be its own
    STORAGE = "storage"  # an attempt ended because the storage refused


class Meters:
    """One set for each server; every call is safe from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queue_wait = Histogram(
            "strata_job_queue_wait_seconds",
            "Time from a job's submission to its first grant, in seconds.",
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        self._dispatch = Histogram(
            "strata_job_dispatch_latency_seconds",
            "Time from a grant to the moment when all ranks are about to train, in seconds.",
            buckets=DISPATCH_BUCKETS,
            registry=registry,
        )
        self._run = Histogram(
            "strata_job_run_seconds",
            "Time from a job's first attempt to its end, in seconds.",
            buckets=RUN_BUCKETS,
            registry=registry,
        )
        self._attempts = Counter(
            "strata_attempts", "Attempts that this server granted.", registry=registry
        )
        self._retries = Counter(
            "strata_retries",
            "Jobs that were queued again, by how their attempt failed.",
            ["kind"],
            registry=registry,
        )
        for kind in (*FailureKind, STOPPED):  # from 0 on: a rate does not see a series' birth
            self._retries.labels(kind)
        self._checkpoints = Counter(
            "strata_checkpoint_failures",
            "Checkpoints that were not saved or can't be used, as gangs told this server.",
            ["reason"],
            registry=registry,
        )
        for reason in CheckpointTrouble:
            self._checkpoints.labels(reason)
        self._passes = Histogram(
            "strata_scheduler_pass_seconds",
            "Time of a scheduling pass, in seconds.",
            buckets=PASS_BUCKETS,
            registry=registry,
        )
        self._phases = Histogram(
            "strata_loop_seconds",
            "Time of a phase of the control loop, in seconds.",
            ["phase"],
            buckets=PASS_BUCKETS,
            registry=registry,
        )
        self._errors = Counter(
            "strata_loop_errors", "Runs of a phase that failed.", ["phase"], registry=registry
        )
        self._elections = Counter(
            "strata_leader_transitions", "How often this server began to lead.", registry=registry
        )

    def granted(self, job: Job, attempt: Attempt) -> None:
        """Count an attempt that was reserved."""
        self._attempts.inc()
        if attempt.number == 1:
            self._queue_wait.observe(_seconds(attempt.reserved_at - job.submitted_at))

    def started(self, attempt: Attempt) -> None:
        """Time a gang that has just said that it is up."""
        if attempt.started_at is not None:
            self._dispatch.observe(_seconds(attempt.started_at - attempt.reserved_at))

    def judged(self, job: Job, verdict: Verdict) -> None:
        """Count what became of a job, as it stands after the verdict on its attempt."""
        if verdict.move is JobMove.REQUEUE:
            self._retries.labels(verdict.failure or STOPPED).inc()
        if job.started_at is not None and job.finished_at is not None:
            self._run.observe(_seconds(job.finished_at - job.started_at))

    def checkpoint_failed(self, trouble: CheckpointTrouble) -> None:
        """Count a checkpoint that is not there when it is wanted."""
        self._checkpoints.labels(trouble).inc()

    def elected(self) -> None:
        """Count a term of this server's that has just begun."""
        self._elections.inc()

    def turned(self, phase: str, seconds: float, *, failed: bool) -> None:
        """Time a phase of the control loop."""
        self._phases.labels(phase).observe(seconds)
        errors = self._errors.labels(phase)  # there from the first run on, so that rates begin
        if phase == "schedule":
            self._passes.observe(seconds)
        if failed:
            errors.inc()


def _seconds(span: timedelta) -> float:
    return max(0.0, span.total_seconds())  # a database's clock may be set back
