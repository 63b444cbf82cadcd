"""What has been silent for too long is given up, but never by somebody who was away himself."""

import pytest

from service.domain.errors import NotLeader
from service.domain.job import AttemptState, JobState
from service.domain.records import Job, Reason
from tests.service.control.house import House, failed, succeeded
from workers.contract.outcome import FailureKind


def both(house: House, job: Job) -> tuple[JobState, AttemptState]:
    return house.job(job).state, house.attempt(job).state


def test_a_gang_that_reports_is_never_lost_whatever_its_agent_does(house: House) -> None:
    job = house.running()
    house.watch(1000, gangs=[job])
    assert both(house, job) == (JobState.RUNNING, AttemptState.RUNNING)


def test_a_silent_gang_is_lost_after_five_minutes_and_its_job_waits_again(house: House) -> None:
    job = house.running()
    house.watch(298, agents=["a"])
    assert both(house, job) == (JobState.RUNNING, AttemptState.RUNNING)
    house.watch(10, agents=["a"])
    assert both(house, job) == (JobState.QUEUED, AttemptState.LOST)
    assert house.job(job).failure is FailureKind.LOST
    assert {"queue", f"job/{job.id}", "agent/a"} <= set(house.bus.woken)


def test_a_lost_gangs_nodes_stay_blocked_and_its_job_starts_elsewhere(house: House) -> None:
    job = house.running(resources={"workers": 4})
    first = {rank.node_id for rank in house.attempt(job).ranks}
    house.watch(310, agents=["a"])
    assert house.schedule() == 1
    assert {rank.node_id for rank in house.attempt(job).ranks}.isdisjoint(first)


@pytest.mark.parametrize(
    ("ask", "state"), [("cancel", JobState.CANCELLED), ("hold", JobState.HELD)]
)
def test_a_gang_that_goes_silent_while_it_stops_ends_as_its_owner_asked(
    house: House, ask: str, state: JobState
) -> None:
    job = house.running()
    getattr(house.jobs, ask)(job.id, actor="user:eva")
    house.watch(310, agents=["a"])
    assert both(house, job) == (state, AttemptState.LOST)


def test_an_unclaimed_gang_goes_back_to_the_queue_and_to_other_nodes(house: House) -> None:
    job = house.reserved()
    first = {rank.node_id for rank in house.attempt(job).ranks}
    house.watch(124, agents=["a"])
    assert both(house, job) == (JobState.QUEUED, AttemptState.GONE)
    attempt = house.attempt(job)
    assert (attempt.reason, attempt.failure) == (Reason.NOT_CLAIMED, FailureKind.START_TIMEOUT)
    house.schedule()
    assert {rank.node_id for rank in house.attempt(job).ranks}.isdisjoint(first)


def test_an_agent_that_went_away_before_the_claim_is_not_the_jobs_failure(house: House) -> None:
    job = house.reserved()
    house.watch(124)
    assert house.attempt(job).failure is FailureKind.AGENT_LOST


def test_a_gang_that_never_says_a_word_though_its_agent_does_is_killed(house: House) -> None:
    job = house.starting()
    house.watch(268, agents=["a"])
    assert both(house, job) == (JobState.RUNNING, AttemptState.STARTING)
    house.watch(10, agents=["a"])
    assert both(house, job) == (JobState.QUEUED, AttemptState.LOST)
    assert house.attempt(job).failure is FailureKind.START_TIMEOUT
    assert len(house.sync().stops) == 1


def test_a_gang_that_never_says_a_word_with_its_agent_away_is_lost_later(house: House) -> None:
    job = house.starting()
    house.watch(290)
    assert both(house, job) == (JobState.RUNNING, AttemptState.STARTING)
    house.watch(20)
    assert house.attempt(job).failure is FailureKind.LOST


def test_a_silent_agents_nodes_take_nothing_until_it_speaks_again(house: House) -> None:
    house.sync()
    house.watch(50)
    house.submit()
    assert house.schedule() == 0
    house.sync()
    assert house.schedule() == 1


def test_a_job_does_not_wait_for_the_proof_of_an_agent_that_never_comes_back(
    house: House,
) -> None:
    job, done = house.running(), house.running()
    house.report(job, failed(FailureKind.WORKER_DIED))
    house.report(done, succeeded())
    house.watch(290)
    assert both(house, job) == (JobState.QUEUED, AttemptState.STOPPING)
    house.watch(20)
    assert both(house, job) == (JobState.QUEUED, AttemptState.LOST)
    assert house.attempt(job).failure is FailureKind.WORKER_DIED
    assert both(house, done) == (JobState.SUCCEEDED, AttemptState.STOPPING)


def test_who_was_away_declares_nobody_silent(house: House) -> None:
    job, reserved = house.running(), house.reserved()
    house.reconcile()
    house.clock.advance(100_000)  # a laptop that slept
    house.reconcile()
    house.watch(40)
    assert not house.store.agents()[0].is_silent
    house.watch(70)
    assert both(house, job) == (JobState.RUNNING, AttemptState.RUNNING)
    assert both(house, reserved) == (JobState.RUNNING, AttemptState.RESERVED)
    house.watch(200)
    assert house.attempt(job).state is AttemptState.LOST
    assert house.attempt(reserved).state is AttemptState.GONE


def test_a_new_leader_waits_as_long_as_if_everyone_had_just_spoken(house: House) -> None:
    job = house.running()
    house.watch(290)
    house.elector.resign()
    house.clock.advance(4)  # no gap for the loop, but another term
    house.watch(290)
    assert both(house, job) == (JobState.RUNNING, AttemptState.RUNNING)
    house.watch(20)
    assert house.attempt(job).state is AttemptState.LOST


def test_a_word_that_crosses_the_verdict_saves_the_gang(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = house.running()
    house.watch(298, agents=["a"])
    read = house.store.attempts_not_gone

    def read_then_ended() -> object:
        found = read()
        monkeypatch.undo()
        house.report(job, succeeded())
        return found

    monkeypatch.setattr(house.store, "attempts_not_gone", read_then_ended)
    house.watch(10, agents=["a"])
    assert both(house, job) == (JobState.SUCCEEDED, AttemptState.STOPPING)


def test_a_leader_that_was_replaced_gives_nobody_up(house: House) -> None:
    job = house.running()
    old = house.lead()
    house.watch(300, agents=["a"])
    assert house.lead() == old
    house.elector.resign()
    assert house.store.take_lead("control", "server-2", 9.0) is not None
    house.clock.advance(4)
    with pytest.raises(NotLeader):
        house.reconciler.run(old)
    assert both(house, job) == (JobState.RUNNING, AttemptState.RUNNING)
