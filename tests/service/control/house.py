"""The control plane on a database in memory, with a clock that the test moves."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from service.bus.local_bus import LocalBus
from service.control.clock import JobIds
from service.control.elector import Elector
from service.control.files import Files
from service.control.fleet import Fleet
from service.control.ingest import Ingest
from service.control.jobs import Jobs
from service.control.meters import Meters
from service.control.reconciler import Reconciler
from service.control.scheduler import Scheduler
from service.domain.asks import Leadership
from service.domain.records import Attempt, Job
from service.domain.spec import JobSpec
from service.store.engine import open_engine
from service.store.store import Store
from service.store.tables import metadata
from tests.clock import ManualClock
from workers.contract.inventory import CheckpointPath, GangSeen, GangState, NodeSeen, Sync
from workers.contract.inventory import SyncAnswer as Answer
from workers.contract.launch import Claim, LaunchSpec
from workers.contract.outcome import FailureKind, Outcome, Result, StopReason
from workers.contract.paths import checkpoint_folder
from workers.contract.reports import (
    CheckpointRef,
    CheckpointWritten,
    Ended,
    Fact,
    FactBody,
    GangStarted,
    Progress,
    Report,
    ReportAnswer,
)
from workers.contract.wire import JobId

NODES = (
    NodeSeen(node_id="n1", host="h1", cpus=4, gpus=0),
    NodeSeen(node_id="n2", host="h2", cpus=4, gpus=0),
)
SPEC: dict[str, Any] = {
    "name": "digits",
    "data": {"source": "digits"},
    "model": {"kind": "mlp", "hidden": [8]},
}


class WatchedBus(LocalBus):
    """Remembers who was woken."""

    def __init__(self) -> None:
        super().__init__()
        self.woken: list[str] = []

    def wake(self, topic: str) -> None:
        self.woken.append(topic)
        super().wake(topic)


def a_spec(**changes: Any) -> JobSpec:
    return JobSpec.model_validate(SPEC | changes)


def failed(kind: FailureKind, message: str = "") -> Ended:
    return Ended(outcome=Outcome(result=Result.FAILED, failure=kind, message=message))


def stopped(reason: StopReason) -> Ended:
    return Ended(outcome=Outcome(result=Result.STOPPED, stop_reason=reason))


def succeeded(**metrics: float) -> Ended:
    return Ended(outcome=Outcome(result=Result.SUCCEEDED, metrics=metrics))


def wrote(job_id: JobId, step: int, attempt: int = 1, stage: str = "finetune") -> CheckpointWritten:
    path = checkpoint_folder(job_id, stage, step, attempt)
    ref = CheckpointRef(
        path=path, manifest_sha256="ab" * 32, stage_index=0, stage=stage, step=step, attempt=attempt
    )
    return CheckpointWritten(ref=ref, bytes=10, files=1, save_seconds=0.1, stall_seconds=0.0)


def progress(step: int) -> Progress:
    return Progress(
        stage_index=0,
        epoch=0,
        stage_step=step,
        step=step,
        loss=1.0 / step,
        lr=0.1,
        samples=step * 10,
        samples_per_second=100.0,
        step_seconds=0.1,
        data_wait_seconds=0.0,
        eta_seconds=None,
    )


class House:
    """Every room of control, wired as bootstrap does; one agent "a" unless another is named."""

    def __init__(self, storage: Path, data_roots: tuple[str, ...] = ()) -> None:
        self.clock, self.bus = ManualClock(), WatchedBus()
        engine = open_engine("sqlite://", self.clock.now)
        metadata.create_all(engine)
        self.store = Store(engine)
        self.storage_url = f"file://{storage}"
        self.jitter = 0.5
        self.jobs = Jobs(
            self.store,
            self.bus,
            storage_url=self.storage_url,
            data_roots=data_roots,
            ids=JobIds(),
        )
        self.files = Files(self.store, storage_url=self.storage_url)
        self.registry = CollectorRegistry()
        self.meters = Meters(self.registry)
        self.ingest = Ingest(self.store, self.bus, lambda: self.jitter, self.meters)
        self.fleet = Fleet(
            self.store,
            self.bus,
            storage_url=self.storage_url,
            data_roots=data_roots,
            jitter=lambda: self.jitter,
            meters=self.meters,
        )
        self.elector = Elector(self.store, self.clock, "server-1")
        self.scheduler = Scheduler(self.store, self.bus, self.meters)
        self.reconciler = Reconciler(self.store, self.bus, lambda: self.jitter, self.meters)
        self._keys = 0

    def sample(self, name: str, **labels: str) -> float | None:
        """The value of one of our own series, as /metrics would tell it."""
        return self.registry.get_sample_value(name, labels)

    # --- people

    def submit(self, **changes: Any) -> Job:
        self._keys += 1
        return self.jobs.submit(a_spec(**changes), key=f"key-{self._keys}", owner="user:eva").job

    # --- an agent and its gangs

    def sync(
        self,
        *gangs: GangSeen,
        agent: str = "a",
        nodes: Sequence[NodeSeen] = NODES,
        cluster: str = "cluster-1",
        boot: str = "boot-1",
        pruned: tuple[CheckpointPath, ...] = (),
    ) -> Answer:
        return self.fleet.sync(
            agent,
            Sync(cluster_id=cluster, boot_id=boot, nodes=tuple(nodes), gangs=gangs, pruned=pruned),
        )

    def absent(self, job: Job, cause: str = "") -> GangSeen:
        number = self.job(job).attempt
        return GangSeen(job_id=job.id, attempt=number, state=GangState.ABSENT, cause=cause)

    def claim(self, job: Job, agent: str = "a", boot: str = "boot-1") -> LaunchSpec:
        number = self.job(job).attempt
        token = hashlib.sha256(f"{job.id} {number}".encode()).hexdigest()
        claim = Claim(boot_id=boot, job_id=job.id, attempt=number, token_sha256=token)
        return self.fleet.claim(agent, claim)

    def report(self, job: Job, *bodies: FactBody, number: int | None = None) -> ReportAnswer:
        """Tell facts with the next sequence numbers."""
        attempt = self.store.attempt(job.id, number or self.job(job).attempt)
        assert attempt is not None
        first = attempt.held + 1
        return self.tell(attempt, enumerate(bodies, start=first))

    def tell(self, attempt: Attempt, numbered: Iterable[tuple[int, FactBody]]) -> ReportAnswer:
        now = self.clock.now()
        facts = tuple(Fact(seq=seq, at=now, body=body) for seq, body in numbered)
        return self.ingest.report(attempt, Report(facts=facts))

    # --- the leader

    def lead(self) -> Leadership:
        term = self.elector.run()
        assert term is not None
        return term

    def schedule(self) -> int:
        return self.scheduler.run(self.lead())

    def reconcile(self) -> None:
        self.reconciler.run(self.lead())

    def watch(
        self, seconds: float, *, agents: Sequence[str] = (), gangs: Sequence[Job] = ()
    ) -> None:
        """Let time pass, the reconciler running each 2 s, while these go on speaking."""
        for second in range(0, int(seconds), 2):
            self.clock.advance(2)
            for job in gangs:
                self.report(job)
            if second % 20 == 0:
                for agent in agents:
                    self.sync(agent=agent)
            self.reconcile()

    # --- short cuts

    def reserved(self, **changes: Any) -> Job:
        """A job with a node, which no agent has claimed."""
        self.sync()
        job = self.submit(**changes)
        assert self.schedule() >= 1
        return self.job(job)

    def starting(self, **changes: Any) -> Job:
        """A job that an agent has claimed, and whose gang has said nothing yet."""
        job = self.reserved(**changes)
        self.claim(job)
        return self.job(job)

    def running(self, **changes: Any) -> Job:
        """A job whose gang is up."""
        job = self.starting(**changes)
        self.report(job, GangStarted(world_size=1))
        return self.job(job)

    def again(self, job: Job) -> Job:
        """Proof that the last attempt is gone, and the next one up."""
        self.sync(self.absent(job))
        self.clock.advance(600)  # beyond every back-off
        self.sync()
        assert self.schedule() == 1
        self.claim(job)
        self.report(job, GangStarted(world_size=1))
        return self.job(job)

    # --- what is so now

    def job(self, job: Job) -> Job:
        found = self.store.job(job.id)
        assert found is not None
        return found

    def attempt(self, job: Job, number: int | None = None) -> Attempt:
        found = self.store.attempt(job.id, number or self.job(job).attempt)
        assert found is not None
        return found

    def moves(self, job: Job) -> list[str]:
        """The job's own events, without those of its attempts."""
        events = self.store.events(job.id, 0, 1000)
        return [one.move for one in events if one.attempt is None]
