"""Who starts now and where, and why everyone else waits: a pure function of a frozen world.

The queue is walked once, head first. A gang starts whole or not at all. Once a job that would fit
on idle nodes has to wait for them, later ones leave those nodes alone, so that a large gang is not
starved by small ones. A job that fits on nothing that is known blocks nobody.
"""

from service.domain.records import Reason
from service.planner import reasons
from service.planner.ordering import in_order
from service.planner.placement import Cluster, Gang, agents_that_could_hold
from service.planner.snapshot import Node, Pending, Plan, Snapshot, Start, Waits
from workers.contract.wire import JobId


def plan(snapshot: Snapshot) -> Plan:
    """Return what to do; every pending job is in the plan's starts or in its waits."""
    return _Pass(snapshot).run()


class _Pass:
    """One walk through the queue."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._cluster = Cluster(snapshot.nodes, snapshot.running)
        self._due_first: dict[str, JobId] = {}  # agent -> who waits for its nodes
        self._starts: list[Start] = []
        self._waits: list[Waits] = []
        self._able: dict[Gang, frozenset[str]] = {}  # most jobs of a long queue ask for the same

    def run(self) -> Plan:
        for job in in_order(self._snapshot.pending):
            self._consider(job)
        return Plan(tuple(self._starts), tuple(self._waits))

    def _consider(self, job: Pending) -> None:
        now_ms = self._snapshot.now_ms
        if job.is_draining:
            return self._wait(job, Reason.DRAINING, reasons.draining(job.attempt))
        if job.not_before_ms is not None and job.not_before_ms > now_ms:
            sentence = reasons.backing_off(job.not_before_ms)
            return self._wait(job, Reason.BACKING_OFF, sentence)
        if not self._snapshot.nodes:
            return self._wait(job, Reason.NO_NODES, reasons.no_nodes())
        gang = Gang(job.workers, job.cpus_per_worker, job.gpus_per_worker)
        if gang not in self._able:
            self._able[gang] = agents_that_could_hold(self._snapshot.nodes, gang)
        able = self._able[gang]
        if not able:
            sentence = reasons.never_fits(gang, self._snapshot.nodes)
            return self._wait(job, Reason.NEVER_FITS, sentence)
        return self._place(job, gang, able)

    def _place(self, job: Pending, gang: Gang, able: frozenset[str]) -> None:
        open_agents = able - self._due_first.keys()
        if not open_agents:
            first = self._due_first[min(able)]
            return self._wait(job, Reason.BEHIND, reasons.behind(first))
        placed = self._cluster.place(gang, open_agents, job.avoid_nodes)
        if placed is not None:
            agent, shares = placed
            self._starts.append(Start(job.job_id, job.attempt, agent, shares))
            return None
        for agent in open_agents:
            self._due_first[agent] = job.job_id
        free = [node for node in self._cluster.free if node.agent in able]
        sentence = reasons.no_capacity(gang, free, self._snapshot.running)
        return self._wait(job, Reason.NO_CAPACITY, sentence)

    def _wait(self, job: Pending, reason: Reason, sentence: str) -> None:
        self._waits.append(Waits(job.job_id, reason, sentence))


def impossible(nodes: tuple[Node, ...], gang: Gang) -> str | None:
    """The sentence for a gang that none of these nodes will ever hold; None where one could."""
    if not nodes or agents_that_could_hold(nodes, gang):
        return None
    return reasons.never_fits(gang, nodes)
