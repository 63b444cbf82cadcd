"""Jobs and attempts at any point of their lives, brought there by the store's own moves."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from service.domain.asks import NewJob, Why
from service.domain.job import AttemptMove, JobMove
from service.domain.records import Attempt, Job, RankShare, Reason
from service.domain.spec import JobSpec
from service.store.store import Store
from workers.contract.inventory import NodeSeen
from workers.contract.outcome import FailureKind, Outcome, Result
from workers.contract.paths import checkpoint_folder
from workers.contract.reports import CheckpointRef, CheckpointWritten, Progress
from workers.contract.wire import JobId

SPEC: dict[str, Any] = {
    "name": "digits",
    "data": {"source": "digits"},
    "model": {"kind": "mlp", "hidden": [8]},
}
WHY = Why("scheduler", Reason.RESERVED, "because")
RANKS = (RankShare(0, "n1", 2, 1), RankShare(1, "n2", 2, 1))
NODES = (
    NodeSeen(node_id="n1", host="h1", cpus=4, gpus=1, labels={"zone": "a"}),
    NodeSeen(node_id="n2", host="h2", cpus=8, gpus=2, gpu_type="a100", memory_bytes=2**40),
)
TOLD_AT = datetime(2026, 11, 2, 3, 4, 5, 678901, tzinfo=UTC)
FAILED = Outcome(result=Result.FAILED, failure=FailureKind.HANG, message="rank 1 lags")


def a_spec(**changes: Any) -> JobSpec:
    return JobSpec.model_validate(SPEC | changes)


def job_id(number: int) -> JobId:
    return JobId(f"019a0000-0000-7000-8000-{number:012d}")


def new_job(number: int = 1, key: str | None = None, **changes: Any) -> NewJob:
    return NewJob(job_id(number), key or f"key-{number}", "user:eva", a_spec(**changes))


def wrote(job: Job | NewJob, step: int, attempt: int = 1) -> CheckpointWritten:
    ref = CheckpointRef(
        path=checkpoint_folder(job.id, "finetune", step, attempt),
        manifest_sha256="ab" * 32,
        stage_index=0,
        stage="finetune",
        step=step,
        attempt=attempt,
    )
    return CheckpointWritten(ref=ref, bytes=10, files=2, save_seconds=0.5, stall_seconds=0.25)


def progress(step: int, **metrics: float) -> Progress:
    return Progress(
        stage_index=0,
        epoch=0,
        stage_step=step,
        step=step,
        loss=0.5,
        lr=0.1,
        samples=step * 10,
        samples_per_second=100.0,
        step_seconds=0.1,
        data_wait_seconds=0.0,
        eta_seconds=None,
        metrics=metrics,
    )


class Lives:
    """Every call adds to the store; each new job has a number, an id and a key of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._num_jobs = 0

    def queued(self, **changes: Any) -> Job:
        self._num_jobs += 1
        with self._store.write() as tx:
            return tx.add_job(new_job(self._num_jobs, **changes))

    def reserve(
        self, job: Job, agent: str = "a", ranks: Sequence[RankShare] = RANKS
    ) -> tuple[Job, Attempt]:
        with self._store.write() as tx:
            attempt = tx.reserve(job, agent, ranks, WHY)
        return self.job(job), attempt

    def reserved(self, agent: str = "a", **changes: Any) -> tuple[Job, Attempt]:
        return self.reserve(self.queued(**changes), agent)

    def move(self, attempt: Attempt, *moves: AttemptMove, **changes: Any) -> Attempt:
        """Carry the attempt through these moves; `changes` belong to the last."""
        for count, move in enumerate(moves, start=1):
            with self._store.write() as tx:
                last = changes if count == len(moves) else {}
                attempt = tx.move_attempt(attempt, move, WHY, **last)
        return attempt

    def move_job(self, job: Job, move: JobMove, **changes: Any) -> Job:
        with self._store.write() as tx:
            return tx.move_job(job, move, WHY, **changes)

    def running(self, agent: str = "a", **changes: Any) -> tuple[Job, Attempt]:
        job, attempt = self.reserved(agent, **changes)
        return job, self.move(attempt, AttemptMove.CLAIM, AttemptMove.START)

    def requeued(self, failure: FailureKind | None = None, **changes: Any) -> tuple[Job, Attempt]:
        """A job that waits again, and its first attempt, which is GONE."""
        job, attempt = self.running(**changes)
        attempt = self.move(attempt, AttemptMove.BURY, failure=failure)
        return self.move_job(job, JobMove.REQUEUE), attempt

    def agent(self, name: str = "a", nodes: Sequence[NodeSeen] = NODES, boot: str = "b1") -> int:
        with self._store.write() as tx:
            return tx.see_agent(name, "cluster-1", boot, nodes)

    def job(self, job: Job) -> Job:
        found = self._store.job(job.id)
        assert found is not None
        return found

    def attempt(self, attempt: Attempt) -> Attempt:
        found = self._store.attempt(attempt.job_id, attempt.number)
        assert found is not None
        return found
