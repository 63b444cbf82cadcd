"""A simulated agent and its Ray cluster: nodes come and go, and a gang outlives its agent."""

import random
from collections import Counter
from dataclasses import dataclass, field

from service.domain.errors import Conflict, Refusal
from tests.simulation.gang import Disk, Gang
from tests.simulation.wire import Lost, Wire
from workers.contract.inventory import (
    CheckpointPath,
    GangSeen,
    GangState,
    GangWanted,
    NodeSeen,
    Sync,
    SyncAnswer,
)
from workers.contract.launch import Claim
from workers.contract.wire import JobId

CUT_OFF_SECONDS_MAX = 50.0  # a cut-off raylet ends itself within 60 s
NEVER_SPEAKS_SHARE = 0.06  # of the gangs, whose driver hangs before its first word
SHAPES = ((4, 0), (2, 1))  # (CPUs, GPUs) of the nodes of a cluster


@dataclass
class RayCluster:
    """What is really so: which nodes are there, and which gangs live."""

    name: str
    disk: Disk
    rng: random.Random
    fired: Counter[str]
    capacity: dict[str, tuple[int, int]]  # of every node that ever was
    num_born: int = 0
    id: str = ""
    nodes: list[str] = field(default_factory=list)
    gangs: dict[tuple[JobId, int], Gang] = field(default_factory=dict)
    dies_at: list[tuple[float, Gang]] = field(default_factory=list)
    launches: Counter[tuple[JobId, int]] = field(default_factory=Counter)

    def be_born(self) -> None:
        """A new cluster under the old name."""
        self.num_born += 1
        self.id = f"{self.name}-cluster-{self.num_born}"
        self.nodes = [self._new_node(shape) for shape in SHAPES]

    def _new_node(self, shape: tuple[int, int]) -> str:
        node = f"{self.name}-{len(self.capacity):04d}"
        self.capacity[node] = shape
        return node

    def lose_node(self, now: float) -> None:
        """A node vanishes, another of its shape comes; what ran there dies a little later."""
        lost = self.nodes.pop(self.rng.randrange(len(self.nodes)))
        self.nodes.append(self._new_node(self.capacity[lost]))
        self._doom({lost}, now)

    def be_replaced(self, now: float) -> None:
        """The head dies; a new cluster comes up under the same name."""
        self._doom(set(self.nodes), now)
        self.be_born()

    def _doom(self, nodes: set[str], now: float) -> None:
        for gang in self.gangs.values():
            if gang.is_alive and gang.nodes & nodes:
                at = now + self.rng.uniform(0.0, CUT_OFF_SECONDS_MAX)
                self.dies_at.append((at, gang))

    def let_die(self, now: float) -> None:
        """End what was doomed."""
        for at, gang in self.dies_at:
            if at <= now:
                gang.is_alive = False
        self.dies_at = [(at, gang) for at, gang in self.dies_at if at > now]

    def sees(self, key: tuple[JobId, int]) -> bool:
        """Whether the cluster shows a process of the gang; cut-off ones it does not show."""
        gang = self.gangs.get(key)
        return gang is not None and gang.is_alive and gang.nodes <= set(self.nodes)


class Agent:
    """One agent process."""

    def __init__(self, cluster: RayCluster, boot: int, num_steps: dict[JobId, int]) -> None:
        self._cluster = cluster
        self._boot_id = f"boot-{boot:06d}"
        self._num_steps = num_steps
        self._answer: SyncAnswer | None = None
        self._pruned: list[CheckpointPath] = []
        self._unborn: set[tuple[JobId, int]] = set()
        self.has_exited = False
        self.away_until = 0.0

    def act(self, wire: Wire, now: float) -> None:
        """Sync, then do what the answer says."""
        if self.has_exited or now < self.away_until:
            return
        cluster = self._cluster
        sync = Sync(
            cluster_id=cluster.id,
            boot_id=self._boot_id,
            nodes=tuple(map(self._node, cluster.nodes)),
            gangs=tuple(self._gangs()),
            pruned=tuple(self._pruned),
            known=self._answer.fingerprint if self._answer else "",
        )
        try:
            answer = wire.sync(cluster.name, sync)
        except Conflict as conflict:
            self.has_exited = "newer agent" in conflict.sentence
            return
        except (Lost, Refusal):
            return
        if self._answer is not None and answer.revision < self._answer.revision:
            return  # an older one
        self._answer = answer
        self._do(answer, wire)

    def _do(self, answer: SyncAnswer, wire: Wire) -> None:
        disk = self._cluster.disk
        for stop in answer.stops:
            gang = self._cluster.gangs.get((stop.job_id, stop.attempt))
            if gang is not None and gang.is_alive:
                gang.is_alive = False
                self._cluster.fired["gang killed by a stop"] += 1
        for doomed in answer.prune:
            disk.checkpoints.pop(doomed.path, None)
        self._pruned = list(answer.prune)
        for wanted in answer.gangs:
            if wanted.unclaimed:
                self._start(wanted, wire)

    def _start(self, wanted: GangWanted, wire: Wire) -> None:
        rng, cluster = self._cluster.rng, self._cluster
        claim = Claim(
            boot_id=self._boot_id,
            job_id=wanted.job_id,
            attempt=wanted.attempt,
            token_sha256=f"{rng.getrandbits(256):064x}",
        )
        try:
            launch = wire.claim(cluster.name, claim)
        except (Lost, Refusal):
            return
        num_steps = self._num_steps[launch.job_id]
        gang = Gang(launch, cluster.disk, rng, cluster.fired, num_steps)
        cluster.launches[gang.key] += 1
        cluster.gangs[gang.key] = gang
        if not gang.nodes <= set(cluster.nodes):
            gang.is_alive = False  # its nodes went meanwhile: Ray can't place it
            self._unborn.add(gang.key)
        elif wire.is_faulty and rng.random() < NEVER_SPEAKS_SHARE:
            gang.frozen_until = float("inf")
            cluster.fired["gang never spoke"] += 1

    def _gangs(self) -> list[GangSeen]:
        """What it was told of, and a lie now and then that costs nobody anything."""
        if self._answer is None:
            return []
        seen = []
        for wanted in self._answer.gangs:
            key = (wanted.job_id, wanted.attempt)
            state = GangState.ALIVE if self._cluster.sees(key) else GangState.ABSENT
            if key in self._unborn:
                state = GangState.UNBORN
            if not wanted.unclaimed or self._cluster.rng.random() < 0.2:
                seen.append(GangSeen(job_id=key[0], attempt=key[1], state=state))
        if seen and self._cluster.rng.random() < 0.05:
            self._cluster.fired["absence of a stranger told"] += 1
            attempt = seen[0].attempt + self._cluster.rng.choice([-1, 1])
            stranger = {"attempt": attempt, "state": GangState.ABSENT}
            seen.append(seen[0].model_copy(update=stranger))
        return seen

    def _node(self, node_id: str) -> NodeSeen:
        cpus, gpus = self._cluster.capacity[node_id]
        return NodeSeen(node_id=node_id, host=node_id, cpus=cpus, gpus=gpus)
