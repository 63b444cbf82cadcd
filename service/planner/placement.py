"""Where a gang fits: every worker of it at once, on the nodes of one agent, or nowhere."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from service.planner.snapshot import Node, Running, Share


@dataclass(frozen=True, slots=True)
class Gang:
    """What a job asks for."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: int


@dataclass(frozen=True, slots=True)
class Free:
    """What is free on a node."""

    node_id: str
    agent: str
    cpus: int
    gpus: int

    def holds(self, gang: Gang) -> bool:
        """True if one more worker fits here."""
        return self.cpus >= gang.cpus_per_worker and self.gpus >= gang.gpus_per_worker

    def room_for(self, gang: Gang) -> int:
        """How many workers fit here."""
        by_gpus = self.gpus // gang.gpus_per_worker if gang.gpus_per_worker else gang.workers
        return min(self.cpus // gang.cpus_per_worker, by_gpus, gang.workers)

    def less(self, gang: Gang, workers: int) -> "Free":
        """What is free once so many workers are here."""
        return replace(
            self,
            cpus=self.cpus - workers * gang.cpus_per_worker,
            gpus=self.gpus - workers * gang.gpus_per_worker,
        )


class Cluster:
    """What is free on every node of a snapshot, and less with each gang that is placed."""

    def __init__(self, nodes: Iterable[Node], running: Iterable[Running]) -> None:
        held_cpus: defaultdict[str, int] = defaultdict(int)
        held_gpus: defaultdict[str, int] = defaultdict(int)
        for attempt in running:
            for share in attempt.shares:
                held_cpus[share.node_id] += share.cpus
                held_gpus[share.node_id] += share.gpus
        self._free = {
            node.id: Free(
                node.id, node.agent, node.cpus - held_cpus[node.id], node.gpus - held_gpus[node.id]
            )
            for node in nodes
        }

    @property
    def free(self) -> Sequence[Free]:
        """Every node with what is free on it."""
        return tuple(self._free.values())

    def place(
        self, gang: Gang, agents: frozenset[str], avoid: frozenset[str] = frozenset()
    ) -> tuple[str, tuple[Share, ...]] | None:
        """Take room for the whole gang and return (agent, a share for each rank); None: no room.

        Each agent's nodes are tried apart, since a gang lives in one Ray cluster. Within them the
        fullest node comes first, then the lowest id, so that large holes stay whole; nodes to avoid
        come last.
        """
        by_agent: defaultdict[str, list[Free]] = defaultdict(list)
        for node in self._free.values():
            if node.agent in agents and node.holds(gang):
                by_agent[node.agent].append(node)
        for agent in sorted(by_agent):
            nodes = sorted(
                by_agent[agent],
                key=lambda node: (node.node_id in avoid, node.gpus, node.cpus, node.node_id),
            )
            placed = _fill(nodes, gang)
            if placed is not None:
                for node, workers in placed:
                    self._free[node.node_id] = node.less(gang, workers)
                shares = [
                    Share(node.node_id, gang.cpus_per_worker, gang.gpus_per_worker)
                    for node, workers in placed
                    for _ in range(workers)
                ]
                return agent, tuple(shares)
        return None


def _fill(nodes: Iterable[Free], gang: Gang) -> list[tuple[Free, int]] | None:
    placed: list[tuple[Free, int]] = []
    missing = gang.workers
    for node in nodes:
        workers = min(node.room_for(gang), missing)
        placed.append((node, workers))
        missing -= workers
        if missing == 0:
            return placed
    return None


def agents_that_could_hold(nodes: Iterable[Node], gang: Gang) -> frozenset[str]:
    """The agents whose nodes, all idle, hold the gang."""
    room: defaultdict[str, int] = defaultdict(int)
    for free in Cluster(nodes, ()).free:
        if free.holds(gang):
            room[free.agent] += free.room_for(gang)
    return frozenset(agent for agent, workers in room.items() if workers >= gang.workers)
