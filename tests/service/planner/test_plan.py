"""Who starts, and why the others wait: one example for each rule."""

import time

from service.domain.records import Reason
from service.planner.placement import Gang
from service.planner.plan import impossible, plan
from service.planner.snapshot import Plan, Share
from tests.service.planner.worlds import NOW_MS, node, pending, running, world


def started(planned: Plan) -> list[int]:
    return [int(start.job_id[-4:]) for start in planned.starts]


def reasons(planned: Plan) -> dict[int, Reason]:
    return {int(wait.job_id[-4:]): wait.reason for wait in planned.waits}


def test_the_higher_priority_goes_first_and_then_the_earlier_submit() -> None:
    jobs = [pending(1), pending(2, priority=9), pending(3), pending(4, priority=9)]
    assert started(plan(world([node("n", cpus=4)], jobs))) == [2, 4, 1, 3]


def test_a_gang_starts_whole_or_not_at_all() -> None:
    planned = plan(world([node("n1", 2), node("n2", 1)], [pending(1, workers=4)]))
    assert not planned.starts
    planned = plan(world([node("n1", 2), node("n2", 2)], [pending(1, workers=4)]))
    assert [share.node_id for share in planned.starts[0].shares] == ["n1", "n1", "n2", "n2"]


def test_a_gang_is_not_spread_over_two_agents() -> None:
    nodes = [node("n1", 2, agent="a"), node("n2", 2, agent="b")]
    planned = plan(world(nodes, [pending(1, workers=4)]))
    assert reasons(planned) == {1: Reason.NEVER_FITS}


def test_the_fullest_node_that_fits_is_taken_so_that_large_holes_stay_whole() -> None:
    planned = plan(world([node("n1", 8), node("n2", 3)], [pending(1, workers=2)]))
    assert {share.node_id for share in planned.starts[0].shares} == {"n2"}


def test_of_equal_nodes_the_lowest_id_is_taken() -> None:
    planned = plan(world([node("n3"), node("n1"), node("n2")], [pending(1)]))
    assert planned.starts[0].shares == (Share("n1", 1, 0),)


def test_nodes_to_avoid_are_taken_last_but_taken() -> None:
    nodes, avoid = [node("n1", 2), node("n2", 8)], frozenset({"n1"})
    elsewhere = plan(world(nodes, [pending(1, workers=2, avoid=avoid)]))
    assert {share.node_id for share in elsewhere.starts[0].shares} == {"n2"}
    both = plan(world(nodes, [pending(1, workers=10, avoid=avoid)]))
    assert {share.node_id for share in both.starts[0].shares} == {"n1", "n2"}


def test_a_waiting_large_gang_is_not_starved_by_small_ones_behind_it() -> None:
    held = [running("held", [Share("n1", 1, 0)])]
    jobs = [pending(1, cpus=4), pending(2)]
    planned = plan(world([node("n1", 4)], jobs, held))
    assert started(planned) == []
    assert reasons(planned) == {1: Reason.NO_CAPACITY, 2: Reason.BEHIND}
    assert "job job-0001 is due first" in planned.waits[1].sentence


def test_a_waiting_gang_keeps_only_the_nodes_that_it_could_use() -> None:
    nodes = [node("n1", 4, gpus=1, agent="a"), node("n2", 4, agent="b")]
    held = [running("held", [Share("n1", 1, 1)])]
    jobs = [pending(1, gpus=1), pending(2)]
    planned = plan(world(nodes, jobs, held))
    assert reasons(planned) == {1: Reason.NO_CAPACITY}
    assert planned.starts[0].agent == "b"


def test_a_gang_that_never_fits_blocks_nobody() -> None:
    planned = plan(world([node("n1", 4)], [pending(1, cpus=5), pending(2)]))
    assert started(planned) == [2]
    assert planned.waits[0].sentence == (
        "needs 1 worker x (5 CPUs, 0 GPUs); all 1 node together have 4 CPUs and 0 GPUs, "
        "the largest 4 CPUs and 0 GPUs, even when idle"
    )


def test_a_job_whose_last_attempt_is_in_its_way_blocks_nobody_and_says_so() -> None:
    planned = plan(world([node("n1", 4)], [pending(1, cpus=4, is_draining=True), pending(2)]))
    assert started(planned) == [2]
    assert planned.waits[0].reason is Reason.DRAINING
    assert planned.waits[0].sentence == "attempt 1 has ended, but not yet every process of it"


def test_a_job_that_backs_off_blocks_nobody_and_says_when_it_tries_again() -> None:
    jobs = [pending(1, cpus=4, not_before_ms=NOW_MS + 60_000), pending(2)]
    planned = plan(world([node("n1", 4)], jobs))
    assert started(planned) == [2]
    assert planned.waits[0].reason is Reason.BACKING_OFF
    assert planned.waits[0].sentence == "tries again at 08:01:00 UTC"


def test_a_back_off_ends_at_its_instant() -> None:
    assert started(plan(world([node("n1")], [pending(1, not_before_ms=NOW_MS)]))) == [1]


def test_without_a_node_everyone_is_told_so() -> None:
    planned = plan(world([], [pending(1), pending(2)]))
    assert set(reasons(planned).values()) == {Reason.NO_NODES}


def test_who_waits_for_capacity_is_told_what_is_free_and_until_when() -> None:
    held = [
        running("a-0192f0c1", [Share("n1", 6, 0)], NOW_MS + 3_600_000),
        running("b-elsewhere", [Share("n9", 1, 0)], NOW_MS + 1),
    ]
    planned = plan(world([node("n1", 8), node("n2", 1)], [pending(1, 2, 4)], held))
    assert planned.waits[0].sentence == (
        "needs 2 workers x (4 CPUs, 0 GPUs); 3 CPUs and 0 GPUs are free on 2 nodes, on one of "
        "them at most 2 CPUs and 0 GPUs until job 0192f0c1 ends, at 09:00:00 UTC at the latest"
    )


def test_a_node_that_shrank_below_what_is_held_takes_nothing() -> None:
    held = [running("held", [Share("n1", 6, 0)])]
    planned = plan(world([node("n1", 4)], [pending(1)], held))
    assert reasons(planned) == {1: Reason.NO_CAPACITY}


def test_a_gang_is_impossible_only_where_nodes_are_known_and_none_could_ever_hold_it() -> None:
    assert impossible((), Gang(1, 64, 0)) is None
    assert impossible((node("n1", 4),), Gang(2, 2, 0)) is None
    sentence = impossible((node("n1", 4),), Gang(2, 3, 0))
    assert sentence is not None
    assert "needs 2 workers x (3 CPUs, 0 GPUs)" in sentence


def test_ten_thousand_waiting_jobs_are_planned_within_a_second() -> None:
    nodes = [node(f"n{k:03d}", 8, 8) for k in range(64)]
    held = [running(f"h{one.id}", [Share(one.id, 8, 8)]) for one in nodes]
    jobs = [pending(seq, 1 + seq % 8, 1, 1) for seq in range(1, 10_001)]
    began = time.perf_counter()
    planned = plan(world(nodes, jobs, held))
    assert time.perf_counter() - began < 1.0
    assert len(planned.waits) == 10_000
