"""What is true of every plan, over thousands of dense worlds and whatever hypothesis thinks of."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.records import Reason
from service.planner import plan as plan_module
from service.planner.ordering import in_order
from service.planner.placement import Cluster, Free, Gang
from service.planner.plan import plan
from service.planner.snapshot import Plan, Running, Snapshot
from tests.service.planner.worlds import dense_world, held_after, node, pending, world

DENSE_WORLDS = 1500


def check(snapshot: Snapshot, planned: Plan) -> None:
    check_everyone_is_answered_once(snapshot, planned)
    check_gangs_are_whole(snapshot, planned)
    check_capacity(snapshot, planned)
    check_nobody_overtakes(snapshot, planned)
    check_work_is_conserved(snapshot, planned)
    check_reasons_are_true(snapshot, planned)


def check_everyone_is_answered_once(snapshot: Snapshot, planned: Plan) -> None:
    answered = [start.job_id for start in planned.starts]
    answered += [wait.job_id for wait in planned.waits]
    assert sorted(answered) == sorted(job.job_id for job in snapshot.pending)
    assert all(wait.sentence for wait in planned.waits)


def check_gangs_are_whole(snapshot: Snapshot, planned: Plan) -> None:
    jobs = {job.job_id: job for job in snapshot.pending}
    agent_of = {place.id: place.agent for place in snapshot.nodes}
    for start in planned.starts:
        job = jobs[start.job_id]
        assert start.attempt == job.attempt
        assert len(start.shares) == job.workers
        assert {(share.cpus, share.gpus) for share in start.shares} == {
            (job.cpus_per_worker, job.gpus_per_worker)
        }
        assert {agent_of[share.node_id] for share in start.shares} == {start.agent}


def check_capacity(snapshot: Snapshot, planned: Plan) -> None:
    nothing = Plan((), ())
    before, after = held_after(snapshot, nothing), held_after(snapshot, planned)
    for place in snapshot.nodes:
        if after[place.id] != before[place.id]:
            assert after[place.id][0] <= place.cpus
            assert after[place.id][1] <= place.gpus


def check_nobody_overtakes(snapshot: Snapshot, planned: Plan) -> None:
    """Behind a job that waits for an agent's nodes, nobody starts on them."""
    started = {start.job_id: start.agent for start in planned.starts}
    waits = {wait.job_id: wait.reason for wait in planned.waits}
    closed: set[str] = set()
    for job in in_order(snapshot.pending):
        assert started.get(job.job_id) not in closed
        if waits.get(job.job_id) is Reason.NO_CAPACITY:
            closed |= brute_force_able(snapshot, job.job_id)


def check_work_is_conserved(snapshot: Snapshot, planned: Plan) -> None:
    """Who waits for capacity did not fit in what those before it had left, on any agent."""
    order = [job.job_id for job in in_order(snapshot.pending)]
    starts = {start.job_id: start for start in planned.starts}
    jobs = {job.job_id: job for job in snapshot.pending}
    for wait in planned.waits:
        if wait.reason is not Reason.NO_CAPACITY:
            continue
        before = order[: order.index(wait.job_id)]
        earlier = Plan(tuple(starts[one] for one in before if one in starts), ())
        held, job = held_after(snapshot, earlier), jobs[wait.job_id]
        room: dict[str, int] = {}
        for place in snapshot.nodes:
            cpus, gpus = place.cpus - held[place.id][0], place.gpus - held[place.id][1]
            workers = 0
            while cpus >= job.cpus_per_worker and gpus >= job.gpus_per_worker:
                cpus, gpus = cpus - job.cpus_per_worker, gpus - job.gpus_per_worker
                workers += 1
            room[place.agent] = room.get(place.agent, 0) + workers
        due_first = {
            agent
            for one in before
            if any(w.job_id == one and w.reason is Reason.NO_CAPACITY for w in planned.waits)
            for agent in brute_force_able(snapshot, one)
        }
        open_room = [workers for agent, workers in room.items() if agent not in due_first]
        assert max(open_room, default=0) < job.workers


def check_reasons_are_true(snapshot: Snapshot, planned: Plan) -> None:
    """Who is told that it never fits does not, and who is behind has somebody before it."""
    due_first: set[str] = set()
    reasons = {wait.job_id: wait.reason for wait in planned.waits}
    for job in in_order(snapshot.pending):
        able, reason = brute_force_able(snapshot, job.job_id), reasons.get(job.job_id)
        assert (reason is Reason.DRAINING) == job.is_draining
        if reason not in (Reason.DRAINING, Reason.BACKING_OFF, Reason.NO_NODES):
            assert (reason is Reason.NEVER_FITS) == (not able)
        if reason is Reason.BEHIND:
            assert able <= due_first
        if reason is Reason.NO_CAPACITY:
            due_first |= able


def brute_force_able(snapshot: Snapshot, job_id: str) -> set[str]:
    """The agents whose idle nodes hold the job, counted one worker at a time."""
    job = next(one for one in snapshot.pending if one.job_id == job_id)
    room: dict[str, int] = {}
    for place in snapshot.nodes:
        cpus, gpus = place.cpus, place.gpus
        while cpus >= job.cpus_per_worker and gpus >= job.gpus_per_worker:
            cpus, gpus = cpus - job.cpus_per_worker, gpus - job.gpus_per_worker
            room[place.agent] = room.get(place.agent, 0) + 1
    return {agent for agent, workers in room.items() if workers >= job.workers}


def test_every_dense_world_gets_a_plan_that_keeps_the_rules() -> None:
    reasons: set[Reason] = set()
    num_starts = 0
    for seed in range(DENSE_WORLDS):
        snapshot = dense_world(seed)
        planned = plan(snapshot)
        check(snapshot, planned)
        num_starts += len(planned.starts)
        reasons |= {wait.reason for wait in planned.waits}
    assert num_starts > DENSE_WORLDS
    assert reasons == {
        Reason.NO_CAPACITY,
        Reason.BEHIND,
        Reason.NEVER_FITS,
        Reason.BACKING_OFF,
        Reason.DRAINING,
    }


@settings(max_examples=200, deadline=None)
@given(
    nodes=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4)), max_size=5),
    asks=st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(0, 3), st.integers(-2, 2)),
        max_size=20,
    ),
)
def test_whatever_is_asked_of_whatever_cluster_the_rules_are_kept(
    nodes: list[tuple[int, int]], asks: list[tuple[int, int, int, int]]
) -> None:
    snapshot = world(
        [node(f"n{k}", cpus, gpus) for k, (cpus, gpus) in enumerate(nodes)],
        [pending(seq, w, c, g, priority=p) for seq, (w, c, g, p) in enumerate(asks, start=1)],
    )
    check(snapshot, plan(snapshot))


def test_the_same_world_gives_the_same_plan_in_whatever_order_it_is_told() -> None:
    for seed in range(200):
        snapshot = dense_world(seed)
        told_backwards = replace(
            snapshot,
            nodes=snapshot.nodes[::-1],
            running=snapshot.running[::-1],
            pending=snapshot.pending[::-1],
        )
        assert plan(told_backwards).starts == plan(snapshot).starts


def test_planned_again_after_it_was_carried_out_a_plan_starts_nobody_else() -> None:
    for seed in range(200):
        snapshot = dense_world(seed)
        planned = plan(snapshot)
        started = {start.job_id for start in planned.starts}
        after = replace(
            snapshot,
            running=snapshot.running
            + tuple(
                Running(one.job_id, one.attempt + 1, one.shares, None) for one in planned.starts
            ),
            pending=tuple(job for job in snapshot.pending if job.job_id not in started),
        )
        assert plan(after).starts == ()


def check_all(worlds: Sequence[Snapshot]) -> None:
    for snapshot in worlds:
        check(snapshot, plan(snapshot))


def _one_worker_short(self: Cluster, *args: object) -> object:
    placed = PLACE(self, *args)  # type: ignore[arg-type]  # a mutant passes on what it is given
    return None if placed is None else (placed[0], placed[1][:-1] or placed[1])


def _on_too_much(self: Free, gang: Gang) -> int:
    return gang.workers


def _all_of_them(_nodes: object, _gang: object) -> frozenset[str]:
    return frozenset({"a", "b"})


PLACE = Cluster.place


@pytest.mark.parametrize(
    ("target", "name", "mutant"),
    [
        (Cluster, "place", _one_worker_short),
        (Cluster, "place", lambda *_: None),
        (Free, "room_for", _on_too_much),
        (plan_module, "agents_that_could_hold", _all_of_them),
        (plan_module, "in_order", lambda pending: sorted(pending, key=lambda job: job.seq)),
    ],
    ids=["a_rank_short", "never_starts", "overfull", "never_says_never", "no_priority"],
)
def test_a_planner_that_breaks_a_rule_is_caught(
    target: object, name: str, mutant: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds = [dense_world(seed) for seed in range(100)]
    monkeypatch.setattr(target, name, mutant)
    with pytest.raises(AssertionError):
        check_all(worlds)
