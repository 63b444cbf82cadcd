"""People, two servers, two clusters, and everything that can go wrong between them, on a seed."""

import logging
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry

from service.bus.local_bus import LocalBus
from service.control.fleet import Fleet
from service.control.ingest import Ingest
from service.control.jobs import Jobs
from service.control.loop import ControlLoop
from service.control.meters import Meters
from service.domain.asks import JobFilter
from service.domain.errors import Refusal, Unreachable
from service.domain.job import AttemptState, JobState
from service.domain.records import Job
from service.domain.spec import JobSpec
from service.store.engine import open_engine
from service.store.store import Store
from service.store.tables import metadata
from tests.clock import ManualClock
from tests.service.control.house import SPEC
from tests.simulation.agent import Agent, RayCluster
from tests.simulation.flaky_store import FlakyStore
from tests.simulation.gang import Disk, Gang
from tests.simulation.wire import Wire
from workers.contract.outcome import FailureKind
from workers.contract.wire import JobId

STEP_SECONDS = 2.0
BREAKS_SHARE = 0.06  # of the steps
WEIGHTS = {
    # After these nobody is called silent for minutes: rarer, or nothing is ever lost.
    "service away": 0.1,
    "everything asleep": 0.1,
    "server froze": 0.2,
    "cluster replaced": 0.5,
    "cluster cut off": 4.0,  # the one that leaves stale gangs behind
}
EVENTS_MAX = 10_000
STORAGE = "memory://simulation"
LOOP_LOG = "service.control.loop"


class Complaints(logging.Handler):
    """What the control loop logs as an error that it did not foresee."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.getMessage()}: {record.exc_info}")


class World:
    """Time passes in `step`; whatever happens in it is decided by the seed."""

    def __init__(self, seed: int, num_jobs: int = 16) -> None:
        self._num_jobs = num_jobs
        self.rng, self.fired = random.Random(seed), Counter[str]()
        self.clock, self.bus = ManualClock(), LocalBus()
        engine = open_engine("sqlite://", self.clock.now)
        metadata.create_all(engine)
        self.store = FlakyStore(engine, self.rng, self.fired)
        self.store.cross, self.store.freeze = self._one_acts, self._sleep_over_the_lease
        self.jobs = Jobs(self.store, self.bus, storage_url=STORAGE, data_roots=(), ids=self._new_id)
        meters = Meters(CollectorRegistry())
        self.ingest = Ingest(self.store, self.bus, self.rng.random, meters)
        self.fleet = Fleet(
            self.store,
            self.bus,
            storage_url=STORAGE,
            data_roots=(),
            jitter=self.rng.random,
            meters=meters,
        )
        self.wire = Wire(self.fleet, self.ingest, self.rng, self.fired)
        self.loops = [
            ControlLoop(self.store, self.bus, self.clock, f"server-{k}", self.rng.random, meters)
            for k in (1, 2)
        ]
        self._frozen_until = [0.0, 0.0]
        self.disk, self.capacity = Disk(), dict[str, tuple[int, int]]()
        self.num_steps: dict[JobId, int] = {}
        self.clusters = [
            RayCluster(name, self.disk, self.rng, self.fired, self.capacity) for name in ("a", "b")
        ]
        for cluster in self.clusters:
            cluster.be_born()
        self._boots = 0
        self.agents = [self._new_agent(cluster) for cluster in self.clusters]
        self.wanted: dict[str, JobSpec] = {}  # key -> what was submitted and is not acked yet
        self.acked: dict[str, JobId] = {}
        self.specs: dict[str, JobSpec] = {}
        self._cut_until = 0.0
        self._deck: list[str] | None = None
        self._ids = 0
        self.complaints = Complaints()
        logging.getLogger(LOOP_LOG).addHandler(self.complaints)

    def close(self) -> None:
        logging.getLogger(LOOP_LOG).removeHandler(self.complaints)

    # --- time

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    def step(self, *, faults: bool) -> None:
        """Two seconds of everybody's life."""
        self.store.is_faulty = self.wire.is_faulty = faults
        self.clock.advance(STEP_SECONDS)
        self.wire.is_cut = faults and self.now < self._cut_until
        if faults and self.rng.random() < BREAKS_SHARE:
            self._something_breaks()
        self.people_act(faults=faults)
        for cluster in self.clusters:
            cluster.let_die(self.now)
        for gang in self.gangs():
            gang.live(self.now, self.clock.now())
            self._speak(gang)
        for k, agent in enumerate(self.agents):
            if self.rng.random() < 0.3:
                agent.act(self.wire, self.now)
            if agent.has_exited:
                self.agents[k] = self._new_agent(self._cluster_of(agent))
        self.wire.deliver_late()
        for k, loop in enumerate(self.loops):
            if not self.wire.is_cut and self.now >= self._frozen_until[k]:
                loop.turn()

    def mend(self) -> None:
        """The faults are over: everyone is there again and speaks."""
        self._cut_until = 0.0
        self._frozen_until = [0.0, 0.0]
        for agent in self.agents:
            agent.away_until = 0.0
        for gang in self.gangs():
            gang.cut_until = 0.0
            if gang.frozen_until != float("inf"):
                gang.frozen_until = 0.0

    def gangs(self) -> list[Gang]:
        return [gang for one in self.clusters for gang in one.gangs.values() if gang.is_alive]

    def _speak(self, gang: Gang) -> None:
        attempt = Store.attempt(self.store, gang.job_id, gang.attempt)
        assert attempt is not None
        gang.speak(self.wire, attempt, self.now, self.clock.now())

    # --- people

    def people_act(self, *, faults: bool) -> None:
        rng = self.rng
        if faults and len(self.specs) < self._num_jobs and rng.random() < 0.04:
            self.want(self.some_spec())
        for key in list(self.wanted):
            self._submit(key)
        if faults and self.acked and rng.random() < 0.05:
            self._submit(rng.choice(list(self.acked)))  # a client that did not hear us
        if faults and self.acked and rng.random() < 0.03:
            asks = {"cancel": self.jobs.cancel, "hold": self.jobs.hold}
            what = rng.choice(["cancel", "hold"])
            running = [gang.job_id for gang in self.gangs()]
            anyone = list(self.acked.values())
            self._ask(what, asks[what], rng.choice([rng.choice(anyone), *running[:1]]))
        if rng.random() < 0.1:
            held = self.store.jobs(JobFilter(states=frozenset({JobState.HELD})))
            for job in held[:1]:
                self._ask("release", self.jobs.release, job.id)

    def want(self, spec: JobSpec) -> None:
        """Somebody submits this until it is acknowledged."""
        key = f"key-{len(self.specs)}"
        self.specs[key] = self.wanted[key] = spec

    def _submit(self, key: str) -> None:
        try:
            answer = self.jobs.submit(self.specs[key], key=key, owner="user:eva")
        except Unreachable:
            return
        self.wanted.pop(key, None)
        self.num_steps[answer.job.id] = self.specs[key].seed
        assert self.acked.setdefault(key, answer.job.id) == answer.job.id

    def _ask(self, what: str, act: Callable[..., Job], job_id: JobId) -> None:
        try:
            act(job_id, actor="user:eva")
        except Refusal as refusal:
            self.fired[f"{what} refused: {refusal.code}"] += 1
        else:
            self.fired[what] += 1

    def some_spec(self, **special: Any) -> JobSpec:
        """Something that fits one of the clusters; its seed is how many steps it trains."""
        rng = self.rng
        asked: dict[str, Any] = rng.choice(
            [{"workers": 1}, {"workers": 2}, {"workers": 5}, {"gpus_per_worker": 1}]
        )
        changes: dict[str, Any] = {
            "resources": asked,
            "seed": rng.randint(5, 150),
            "priority": rng.choice([0, 0, 5]),
            "checkpoint": {"keep_last": rng.choice([1, 2])},
            "retries": 1,
        }
        return JobSpec.model_validate(SPEC | changes | special)

    def _new_id(self) -> JobId:
        self._ids += 1
        return JobId(f"00000000-0000-7000-8000-{self._ids:012d}")

    # --- what breaks

    def _something_breaks(self) -> None:
        rng = self.rng
        breaks: dict[str, Callable[[], object]] = {
            "gang killed": lambda: self._hit(Gang.die),
            "gang failed": lambda: self._hit(self._fail),
            "gang froze": lambda: self._hit(self._freeze),
            "gang cut off": lambda: self._hit(self._cut_off),
            "gang lied": lambda: self._hit(lambda gang: gang.lie(self.clock.now())),
            "agent restarted": self._restart_an_agent,
            "agent away": self._send_an_agent_away,
            "cluster cut off": self._cut_off_a_cluster,
            "node lost": lambda: rng.choice(self.clusters).lose_node(self.now),
            "cluster replaced": lambda: rng.choice(self.clusters).be_replaced(self.now),
            "server froze": self._freeze_a_server,
            "service away": self._cut_off_the_service,
            "everything asleep": lambda: self.clock.advance(rng.uniform(60, 5000)),
        }
        if self._deck is None:  # each once, so that every run has seen all of them; then at random
            self._deck = rng.sample(list(breaks), len(breaks))
        if self._deck:
            what = self._deck.pop()
        else:
            what = rng.choices(list(breaks), [WEIGHTS.get(one, 1.0) for one in breaks])[0]
        self.fired[what] += 1
        breaks[what]()

    def _fail(self, gang: Gang) -> None:
        gang.fail(self.rng.choice(list(FailureKind)), self.clock.now())

    def _freeze(self, gang: Gang) -> None:
        gang.frozen_until = self._later(30, 900)

    def _cut_off(self, gang: Gang) -> None:
        gang.cut_until = self._later(200, 900)

    def _send_an_agent_away(self) -> None:
        self.rng.choice(self.agents).away_until = self._later(30, 200)

    def _cut_off_the_service(self) -> None:
        self._cut_until = self._later(10, 400)

    def _hit(self, act: Callable[[Gang], object]) -> None:
        gangs = self.gangs()
        if gangs:
            act(self.rng.choice(gangs))

    def _later(self, least: float, most: float) -> float:
        return self.now + self.rng.uniform(least, most)

    def _cluster_of(self, agent: Agent) -> RayCluster:
        return self.clusters[self.agents.index(agent)]

    def _new_agent(self, cluster: RayCluster) -> Agent:
        self._boots += 1
        return Agent(cluster, self._boots, self.num_steps)

    def _restart_an_agent(self) -> None:
        """Half of the time the old process goes on for a little."""
        k = self.rng.randrange(len(self.agents))
        old, self.agents[k] = self.agents[k], self._new_agent(self.clusters[k])
        if self.rng.random() < 0.5:
            self.agents[k].act(self.wire, self.now)
            old.act(self.wire, self.now)
            self.fired["older boot spoke"] += 1

    def _cut_off_a_cluster(self) -> None:
        self.cut_off(self.rng.randrange(len(self.clusters)), self._later(310, 600))

    def cut_off(self, k: int, until: float) -> None:
        """Nothing of the cluster is heard, while its gangs train on."""
        self.agents[k].away_until = until
        for gang in self.clusters[k].gangs.values():
            gang.cut_until = until

    def _freeze_a_server(self) -> None:
        leads = [k for k, loop in enumerate(self.loops) if loop.is_leader] or [0]
        self._frozen_until[leads[0]] = self._later(8, 60)

    def _sleep_over_the_lease(self) -> None:
        """The leader has its snapshot and sleeps; its heir serves an urgent job; then it wakes."""
        self.clock.advance(10.0)
        self.want(self.some_spec(priority=9, resources={"workers": 2}))
        self.people_act(faults=False)
        for loop in self.loops:
            if not loop.is_leader:
                loop.turn()

    def _one_acts(self) -> None:
        """Somebody else's turn between two transactions."""
        gangs = self.gangs()
        what = self.rng.choice(["gang", "agent", "people"])
        if what == "gang" and gangs:
            self._speak(self.rng.choice(gangs))
        elif what == "agent":
            self.rng.choice(self.agents).act(self.wire, self.now)
        elif what == "people":
            self.people_act(faults=True)

    # --- the end

    def is_settled(self) -> bool:
        """Every job has ended, or waits with a reason for a person; every node is free."""
        jobs = self.store.jobs(JobFilter(limit=1000))
        return (
            not self.wanted
            and all(job.is_final for job in jobs)
            and not self.store.attempts_not_gone()
        )

    def num_lost(self) -> int:
        """How many attempts were ever given up without proof."""
        jobs = self.store.jobs(JobFilter(limit=1000))
        return sum(
            event.goal == AttemptState.LOST
            for job in jobs
            for event in self.store.events(job.id, 0, EVENTS_MAX)
        )
