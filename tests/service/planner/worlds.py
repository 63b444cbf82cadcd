"""Small frozen worlds for the planner's tests, and dense random ones from a seed."""

import random
from collections import defaultdict

from service.planner.snapshot import Node, Pending, Plan, Running, Share, Snapshot
from workers.contract.wire import JobId

NOW_MS = 1_800_000_000_000


def node(name: str, cpus: int = 4, gpus: int = 0, agent: str = "a") -> Node:
    return Node(name, agent, cpus, gpus)


def pending(
    seq: int,
    workers: int = 1,
    cpus: int = 1,
    gpus: int = 0,
    *,
    priority: int = 0,
    not_before_ms: int | None = None,
    avoid: frozenset[str] = frozenset(),
    is_draining: bool = False,
) -> Pending:
    return Pending(
        job_id=JobId(f"job-{seq:04d}"),
        seq=seq,
        attempt=seq % 3,
        queue="default",
        tenant="default",
        priority=priority,
        submitted_at_ms=NOW_MS - 1000 + seq,
        not_before_ms=not_before_ms,
        workers=workers,
        cpus_per_worker=cpus,
        gpus_per_worker=gpus,
        avoid_nodes=avoid,
        is_draining=is_draining,
    )


def running(name: str, shares: list[Share], ends_at_ms: int | None = None) -> Running:
    return Running(JobId(name), 1, tuple(shares), ends_at_ms)


def world(
    nodes: list[Node], waiting: list[Pending], holding: list[Running] | None = None
) -> Snapshot:
    return Snapshot(NOW_MS, tuple(nodes), tuple(holding or ()), tuple(waiting))


def dense_world(seed: int) -> Snapshot:
    """2-5 nodes of 1-2 agents, partly held, and 5-40 jobs about as large as they are."""
    rng = random.Random(seed)
    agents = ["a", "b"][: rng.randint(1, 2)]
    nodes = [
        node(f"n{k}", rng.randint(1, 8), rng.choice([0, 0, 1, 2, 4]), rng.choice(agents))
        for k in range(rng.randint(2, 5))
    ]
    holding = []
    for k, place in enumerate(nodes):
        cpus = rng.randint(0, place.cpus)
        if cpus:
            share = Share(place.id, cpus, rng.randint(0, place.gpus))
            ends = rng.choice([None, NOW_MS + rng.randint(1, 10_000_000)])
            holding.append(running(f"held-{k}", [share], ends))
    waiting = [
        pending(
            seq,
            rng.choice([1, 1, 2, 3, 5]),
            rng.choice([1, 1, 2, 4, 9]),
            rng.choice([0, 0, 0, 1, 2]),
            priority=rng.choice([0, 0, 0, 5, -5]),
            not_before_ms=rng.choice([None, None, None, NOW_MS - 1, NOW_MS + 1]),
            avoid=frozenset(rng.sample([n.id for n in nodes], rng.choice([0, 0, 1]))),
            is_draining=rng.random() < 0.1,
        )
        for seq in range(1, rng.randint(5, 40) + 1)
    ]
    rng.shuffle(waiting)
    return world(nodes, waiting, holding)


def held_after(snapshot: Snapshot, plan: Plan) -> dict[str, tuple[int, int]]:
    """(CPUs, GPUs) that are held of each node once the plan is carried out."""
    cpus: defaultdict[str, int] = defaultdict(int)
    gpus: defaultdict[str, int] = defaultdict(int)
    holding = [share for one in snapshot.running for share in one.shares]
    granted = [share for one in plan.starts for share in one.shares]
    for share in (*holding, *granted):
        cpus[share.node_id] += share.cpus
        gpus[share.node_id] += share.gpus
    return {place.id: (cpus[place.id], gpus[place.id]) for place in snapshot.nodes}
