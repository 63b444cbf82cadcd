"""Agents on a real Ray: they come and go, and gangs stay."""

import psutil

from tests.waiting import eventually
from tests.workers.ray_house import RayHouse
from workers.contract.launch import RankPlacement


def test_a_killed_agent_leaves_its_gang_and_the_next_one_finds_it(house: RayHouse) -> None:
    gang = house.want(house.plan(ranks=1))
    gang.wait_counted()
    pid, claims = gang.pid(0), house.service.num_claims
    house.agents[-1].kill()
    house.agents[-1].wait()
    gang.wait_counted(3)
    house.start_agent()
    eventually(lambda: gang.state() == "alive", "the new agent sees it")
    gang.wait_counted(3)
    assert gang.pid(0) == pid
    assert house.service.num_claims == claims
    gang.go()
    assert gang.wait_ended()["result"] == "succeeded"


def test_an_attempt_that_is_claimed_and_not_here_is_absent(house: RayHouse) -> None:
    plan = house.plan()
    house.service.claimed[f"{plan.job_id}/{plan.attempt}"] = "by an agent that died at once"
    gang = house.want(plan)
    eventually(lambda: gang.state() == "absent", "the agent tells it")
    assert gang.facts == []


def test_a_plan_for_a_node_that_is_gone_is_told_as_unborn(house: RayHouse) -> None:
    ranks = (RankPlacement(rank=0, node_id="f" * 56, cpus=1, gpus=0),)
    gang = house.want(house.plan(ranks=1).model_copy(update={"ranks": ranks}))
    eventually(lambda: gang.state() == "unborn", "the agent tells it")
    (seen,) = house.service.syncs[-1]["gangs"]
    assert seen["cause"] == f"it can't be started: its nodes {'f' * 56} are gone"


def test_what_a_stop_names_is_killed(house: RayHouse) -> None:
    gang, other = house.want(house.plan(ranks=1)), house.want(house.plan(ranks=1))
    gang.wait_counted()
    other.wait_counted()
    with house.service.changed:
        house.service.kills = [{"job_id": gang.plan.job_id, "attempt": 1, "reason": "cancel"}]
        house.service.changed.notify_all()
    eventually(lambda: gang.state() == "absent", "the agent tells it")
    eventually(lambda: not psutil.pid_exists(gang.pid(0)), "its rank is gone")
    other.wait_counted()
    assert other.state() == "alive"


def test_the_older_of_two_agents_gives_way(house: RayHouse) -> None:
    older = house.agents[-1]
    newer = house.start_agent()
    assert older.wait(20) != 0
    text = house.log_of(len(house.agents) - 2).read_text()
    assert "a newer agent has taken over" in text
    assert newer.poll() is None


def test_a_driver_that_is_killed_is_told_as_absent_and_its_ranks_are_gone(house: RayHouse) -> None:
    gang = house.want(house.plan(ranks=2))
    gang.wait_counted()
    [driver] = house.processes("Driver")
    driver.kill()
    eventually(lambda: gang.state() == "absent", "the agent tells it")
    eventually(lambda: not any(psutil.pid_exists(gang.pid(rank)) for rank in (0, 1)), "ranks end")
