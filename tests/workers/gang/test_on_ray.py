"""Gangs on a real Ray: how they end, and what is told of it."""

import os
import signal
import time

import psutil

from tests.waiting import eventually
from tests.workers.gang.launches import written, wrote_down
from tests.workers.ray_house import Gang, RayHouse
from workers.contract.launch import Deadlines, RankPlacement

NOTICE_SECONDS = (
    3.0  # from a death to the outcome at the service; it takes 0.6 s on an idle machine
)


def seqs(gang: Gang) -> list[int]:
    return [fact["seq"] for fact in gang.facts]


def test_two_ranks_come_to_a_good_end(house: RayHouse) -> None:
    gang = house.want(house.plan("short"))
    outcome = gang.wait_ended()
    assert outcome["result"] == "succeeded"
    assert outcome["metrics"] == {"test_error": 1.0}
    kinds = [fact["body"]["fact"] for fact in gang.facts]
    assert kinds == ["gang_started", "noticed", "noticed", "evaluated", "ended"]
    assert gang.bodies("gang_started")[0]["devices"] == ["cpu", "cpu"]
    assert seqs(gang) == [1, 2, 3, 4, 5]
    assert len(gang.files("facts")) == 5
    eventually(lambda: gang.state() == "absent", "the agent sees that it is gone")
    assert not psutil.pid_exists(gang.pid(0))
    log = "".join(file.read_text() for file in gang.files("logs/rank-0"))
    assert "counted" in log
    assert "succeeded" in "".join(file.read_text() for file in gang.files("logs/driver"))


def test_a_killed_rank_is_named_at_once(house: RayHouse) -> None:
    gang = house.want(house.plan())
    gang.wait_counted()
    killed_at = time.monotonic()
    gang.kill(1)
    outcome = gang.wait_ended()
    assert time.monotonic() - killed_at < NOTICE_SECONDS
    assert (outcome["result"], outcome["failure"]) == ("failed", "worker_died")
    assert outcome["cause"]["rank"] == 1
    assert outcome["message"].startswith("rank 1 died")
    eventually(lambda: not psutil.pid_exists(gang.pid(0)), "the other rank is gone")


def test_an_exception_is_the_first_cause(house: RayHouse) -> None:
    outcome = house.want(house.plan("raise")).wait_ended()
    assert (outcome["result"], outcome["failure"]) == ("failed", "user_error")
    assert outcome["message"] == "no such column: 7"
    cause = outcome["cause"]
    assert (cause["rank"], cause["exception"]) == (1, "ValueError")
    assert cause["last_lines"][0].startswith("Traceback")
    assert cause["last_lines"][-1] == "ValueError: no such column: 7"


def test_an_order_to_stop_is_followed(house: RayHouse) -> None:
    gang = house.want(house.plan())
    gang.wait_counted()
    house.service.stop = {"reason": "hold", "grace_seconds": 60.0}
    outcome = gang.wait_ended()
    assert (outcome["result"], outcome["stop_reason"]) == ("stopped", "hold")
    assert outcome["message"] == ""  # it was not killed


def test_only_ranks_load_torch(house: RayHouse) -> None:
    gang = house.want(house.plan(ranks=1))
    gang.wait_counted()
    (driver,) = house.processes("Driver")
    loaded = {
        name: any("libtorch" in one.path for one in psutil.Process(pid).memory_maps())
        for name, pid in {
            "driver": driver.pid,
            "agent": house.agents[-1].pid,
            "rank": gang.pid(0),
        }.items()
    }
    assert loaded == {"driver": False, "agent": False, "rank": True}


def test_its_time_is_up(house: RayHouse) -> None:
    deadlines = Deadlines(heartbeat_seconds=0.2, max_duration_seconds=0.1)
    outcome = house.want(house.plan(ranks=1, deadlines=deadlines)).wait_ended()
    assert (outcome["result"], outcome["stop_reason"]) == ("stopped", "time_limit")


def test_a_gang_that_does_not_stop_is_killed(house: RayHouse) -> None:
    gang = house.want(house.plan("hang", ranks=1))
    house.service.wait(lambda: gang.bodies("noticed"), "it trains")
    house.service.stop = {"reason": "cancel", "grace_seconds": 0.5}
    outcome = gang.wait_ended()
    assert (outcome["result"], outcome["stop_reason"]) == ("stopped", "cancel")
    assert "killed" in outcome["message"]
    eventually(lambda: not psutil.pid_exists(gang.pid(0)), "its rank is gone")


def test_a_hang_names_the_rank_and_shows_where_it_is(house: RayHouse) -> None:
    deadlines = Deadlines(heartbeat_seconds=0.2, hang_seconds_min=1.0)
    outcome = house.want(house.plan("hang", deadlines=deadlines)).wait_ended()
    assert (outcome["result"], outcome["failure"]) == ("failed", "hang")
    assert outcome["cause"]["rank"] == 1
    assert "rank 1 lags behind" in outcome["message"]
    of_rank_1 = [line for line in outcome["cause"]["last_lines"] if line.startswith("rank 1:")]
    assert any("_go_wrong" in line for line in of_rank_1)


def test_a_rank_that_is_frozen_is_named_and_ended(house: RayHouse) -> None:
    deadlines = Deadlines(heartbeat_seconds=0.2, hang_seconds_min=1.0)
    gang = house.want(house.plan(deadlines=deadlines))
    gang.wait_counted()
    os.kill(gang.pid(1), signal.SIGSTOP)
    outcome = gang.wait_ended()
    assert (outcome["result"], outcome["failure"]) == ("failed", "hang")
    assert outcome["cause"]["rank"] == 1
    assert "rank 1: (it does not answer)" in outcome["cause"]["last_lines"]
    eventually(lambda: not any(psutil.pid_exists(gang.pid(rank)) for rank in (0, 1)), "ranks end")


def test_ranks_that_do_not_come_up_in_time(house: RayHouse) -> None:
    ranks = (RankPlacement(rank=0, node_id=house.node_id, cpus=10_000, gpus=0),)
    deadlines = Deadlines(heartbeat_seconds=0.2, start_seconds=1.0)
    plan = house.plan(deadlines=deadlines).model_copy(update={"ranks": ranks})
    outcome = house.want(plan).wait_ended()
    assert (outcome["result"], outcome["failure"]) == ("failed", "start_timeout")
    assert "rank 0 is starting" in outcome["message"]


def test_nothing_is_lost_while_the_service_is_away(house: RayHouse) -> None:
    gang = house.want(house.plan(ranks=1))
    gang.wait_counted()
    house.service.is_away = True
    refused = house.service.refused
    written_before = len(gang.files("facts"))
    house.service.wait(lambda: house.service.refused > refused + 2, "it tries again and again")
    eventually(lambda: len(gang.files("facts")) > written_before + 3, "it trains on")
    gang.go()
    eventually(lambda: not psutil.pid_exists(gang.pid(0)), "its ranks have ended")
    assert gang.bodies("ended") == []
    house.service.is_away = False
    assert gang.wait_ended()["result"] == "succeeded"
    assert seqs(gang) == list(range(1, len(gang.facts) + 1))


def test_a_gang_that_is_closed_ends_and_writes_no_more(house: RayHouse) -> None:
    gang = house.want(house.plan(ranks=1))
    gang.wait_counted()
    (driver,) = house.processes("Driver")
    house.service.is_closed = True
    eventually(lambda: not driver.is_running(), "the driver is gone")
    eventually(lambda: not psutil.pid_exists(gang.pid(0)), "its ranks are gone")
    assert gang.bodies("ended") == []
    assert not any("ended" in file.read_text() for file in gang.files("facts"))


def test_a_successor_tells_what_its_predecessor_could_not(house: RayHouse) -> None:
    plan = house.plan("short", ranks=1, attempt=2)
    heard, unheard = (written(house.storage, step, 1, plan.job_id) for step in (10, 20))
    wrote_down(house.storage, 1, heard, unheard, job_id=plan.job_id)
    gang = house.want(plan.model_copy(update={"resume": (heard.ref,)}))
    assert gang.wait_ended()["result"] == "succeeded"
    first, second, *_ = [fact["body"] for fact in gang.facts]
    assert first["ref"]["path"] == unheard.ref.path
    assert first["ref"]["attempt"] == 1
    assert second["resumed_from"]["path"] == unheard.ref.path
    assert gang.bodies("evaluated")  # told the moment before the training ended
    assert gang.bodies("noticed")[0]["sentence"] == f"{unheard.ref.path} {heard.ref.path}"


def test_a_rank_that_dies_before_it_trains_is_named(house: RayHouse) -> None:
    plan = house.plan()
    gang = house.want(plan)
    rank = eventually(lambda: house.processes("Rank"), "a rank is born")[0]
    os.kill(rank.pid, 9)
    outcome = gang.wait_ended()
    assert (outcome["result"], outcome["failure"]) == ("failed", "worker_died")
    assert outcome["cause"]["rank"] in (0, 1)
