"""What agents tell and are told: a claim counts once, absence orders nothing, proof frees."""

import pytest

from service.control.fleet import RESUME_MAX
from service.domain.errors import Closed, Conflict, NotFound
from service.domain.job import AttemptState, JobState
from service.domain.records import Reason
from tests.service.control.house import NODES, House, a_spec, failed, succeeded, wrote
from workers.contract.inventory import GangSeen, GangState
from workers.contract.outcome import FailureKind, StopReason
from workers.contract.wire import JobId

# --- sync


def test_an_agents_first_word_makes_its_nodes_known_and_wakes_the_queue(house: House) -> None:
    house.sync()
    assert {name for name, _ in house.store.nodes()} == {"a"}
    assert house.bus.woken == ["queue"]


def test_a_reserved_gang_is_wanted_and_unclaimed_until_it_is_claimed(house: House) -> None:
    job = house.reserved()
    wanted = house.sync().gangs
    assert [(one.job_id, one.attempt, one.unclaimed) for one in wanted] == [(job.id, 1, True)]
    house.claim(job)
    assert [one.unclaimed for one in house.sync().gangs] == [False]


def test_an_agent_is_told_of_its_own_gangs_only(house: House) -> None:
    house.reserved()
    house.sync(agent="b", nodes=())
    assert house.sync(agent="b", nodes=()).gangs == ()


def test_the_fingerprint_changes_with_the_answer_and_only_with_it(house: House) -> None:
    house.sync()
    first, second = house.sync(), house.sync()
    assert first.fingerprint == second.fingerprint
    assert first.revision < second.revision
    house.submit()
    house.schedule()
    assert house.sync().fingerprint != first.fingerprint


def test_an_older_boot_is_refused_once_a_newer_one_has_spoken(house: House) -> None:
    house.sync(boot="boot-2")
    with pytest.raises(Conflict, match="newer agent"):
        house.sync(boot="boot-1")


def test_another_cluster_may_take_a_name_only_after_its_lease_is_over(house: House) -> None:
    house.sync()
    with pytest.raises(Conflict, match="another cluster"):
        house.sync(cluster="cluster-2")
    house.clock.advance(46)
    house.sync(cluster="cluster-2")


# --- claim


def test_a_claim_gives_everything_that_a_gang_must_know(house: House) -> None:
    resources = {"workers": 3, "cpus_per_worker": 2}
    job = house.reserved(resources=resources, env={"X": "1"}, max_duration="2h", seed=9)
    launch = house.claim(job)
    assert [rank.rank for rank in launch.ranks] == [0, 1, 2]
    assert {rank.cpus for rank in launch.ranks} == {2}
    assert launch.recipe == a_spec(seed=9).recipe
    assert (launch.job_id, launch.attempt, launch.name) == (job.id, 1, "digits")
    assert launch.storage_url == house.storage_url
    assert launch.env == {"X": "1"}
    assert launch.deadlines.max_duration_seconds == 7200.0
    assert launch.resume == ()


def test_an_attempt_is_claimed_once(house: House) -> None:
    job = house.starting()
    with pytest.raises(Closed, match="is starting, not reserved"):
        house.claim(job)


def test_a_claim_that_crosses_a_cancel_is_closed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = house.reserved()
    read = house.store.attempt

    def read_then_cancelled(job_id: JobId, number: int) -> object:
        found = read(job_id, number)
        monkeypatch.undo()
        house.jobs.cancel(job.id, actor="user:eva")
        return found

    monkeypatch.setattr(house.store, "attempt", read_then_cancelled)
    with pytest.raises(Closed):
        house.claim(job)
    assert house.attempt(job).token_sha256 is None


def test_only_the_agents_current_boot_may_claim(house: House) -> None:
    job = house.reserved()
    house.sync(boot="boot-2")
    with pytest.raises(Conflict, match="taken over"):
        house.claim(job, boot="boot-1")
    house.claim(job, boot="boot-2")


def test_an_agent_that_never_spoke_or_has_no_such_gang_claims_nothing(house: House) -> None:
    job = house.reserved()
    with pytest.raises(Conflict):
        house.claim(job, agent="b")
    house.sync(agent="b", nodes=())
    with pytest.raises(NotFound):
        house.claim(job, agent="b")


def test_the_next_attempt_resumes_from_the_newest_checkpoints_that_still_stand(
    house: House,
) -> None:
    job = house.running(checkpoint={"keep_last": 10})
    house.report(job, *(wrote(job.id, step) for step in range(1, 9)))
    house.report(job, failed(FailureKind.WORKER_DIED))
    house.sync(house.absent(job))
    house.schedule()
    steps = [ref.step for ref in house.claim(job).resume]
    assert steps == [8, 7, 6, 5, 4][:RESUME_MAX]


def test_a_checkpoint_that_is_about_to_be_deleted_is_not_resumed_from(house: House) -> None:
    job = house.running(checkpoint={"keep_last": 1})
    house.report(job, wrote(job.id, 1), wrote(job.id, 2))
    house.report(job, failed(FailureKind.WORKER_DIED))
    house.sync(house.absent(job))
    house.schedule()
    assert [ref.step for ref in house.claim(job).resume] == [2]


# --- absence and proof


def test_a_gang_that_an_agent_does_not_mention_is_not_dead(house: House) -> None:
    job = house.running()
    for _ in range(20):
        house.clock.advance(20)
        house.sync()
    assert house.attempt(job).state is AttemptState.RUNNING
    assert len(house.sync().gangs) == 1


def test_a_reserved_gang_that_is_said_to_be_absent_is_still_to_be_started(house: House) -> None:
    job = house.reserved()
    house.sync(house.absent(job))
    assert house.attempt(job).state is AttemptState.RESERVED


def test_a_dead_driver_is_a_dead_worker_and_the_job_goes_on(house: House) -> None:
    job = house.running()
    house.sync(house.absent(job, "killed by signal 9"))
    assert house.attempt(job).state is AttemptState.GONE
    assert house.attempt(job).failure is FailureKind.WORKER_DIED
    queued = house.job(job)
    assert queued.state is JobState.QUEUED
    assert queued.reason_text.endswith("killed by signal 9")


def test_a_gang_that_never_came_up_is_a_start_that_failed_and_other_nodes_come_first(
    house: House,
) -> None:
    job = house.starting()
    first = {rank.node_id for rank in house.attempt(job).ranks}
    house.sync(house.absent(job, "the runtime environment failed"))
    assert house.attempt(job).failure is FailureKind.START_TIMEOUT
    house.schedule()
    assert {rank.node_id for rank in house.attempt(job).ranks}.isdisjoint(first)


def test_on_a_lost_node_a_rank_may_live_on_for_a_while_so_proof_takes_a_minute(
    house: House,
) -> None:
    job = house.running()
    there = {rank.node_id for rank in house.attempt(job).ranks}
    rest = [node for node in NODES if node.node_id not in there]
    house.sync(house.absent(job), nodes=rest)
    assert house.attempt(job).state is AttemptState.RUNNING
    house.clock.advance(61)
    house.sync(house.absent(job), nodes=rest)
    assert house.attempt(job).state is AttemptState.GONE
    assert house.attempt(job).failure is FailureKind.NODE_LOST


def test_what_never_lived_needs_no_proof(house: House) -> None:
    job = house.starting()
    there = {rank.node_id for rank in house.attempt(job).ranks}
    rest = [node for node in NODES if node.node_id not in there]
    unborn = GangSeen(job_id=job.id, attempt=1, state=GangState.UNBORN, cause="no such node")
    house.sync(unborn, nodes=rest)
    assert house.attempt(job).state is AttemptState.GONE
    assert house.job(job).reason_text.endswith("no such node")


def test_of_a_cluster_that_was_replaced_nothing_is_left_after_a_minute(house: House) -> None:
    job = house.running()
    other = [node.model_copy(update={"node_id": f"new-{node.node_id}"}) for node in NODES]
    house.clock.advance(46)
    house.report(job)
    house.sync(house.absent(job), cluster="cluster-2", nodes=other)
    assert house.attempt(job).state is AttemptState.RUNNING
    house.clock.advance(61)
    house.sync(house.absent(job), cluster="cluster-2", nodes=other)
    assert house.attempt(job).state is AttemptState.GONE


def test_the_proof_after_an_outcome_only_frees_the_nodes(house: House) -> None:
    job = house.running()
    house.report(job, succeeded())
    house.sync(house.absent(job))
    attempt = house.attempt(job)
    assert (attempt.state, attempt.reason) == (AttemptState.GONE, Reason.PROVED_GONE)
    assert house.job(job).state is JobState.SUCCEEDED
    assert house.sync().gangs == ()


def test_nodes_are_held_until_the_proof_though_the_outcome_is_known(house: House) -> None:
    job = house.running(resources={"workers": 8})
    house.report(job, succeeded())
    house.submit()
    assert house.schedule() == 0
    house.sync(house.absent(job))
    assert house.schedule() == 1


def test_absence_told_twice_or_by_a_stranger_changes_nothing(house: House) -> None:
    job = house.running()
    absent = house.absent(job)
    house.sync(absent, agent="b", nodes=())
    assert house.attempt(job).state is AttemptState.RUNNING
    for _ in range(2):
        house.sync(absent)
    assert house.job(job).state is JobState.QUEUED
    assert house.moves(job) == ["submit", "reserve", "requeue"]


def test_a_gang_that_nobody_knows_is_no_news(house: House) -> None:
    unknown = GangSeen(job_id=JobId("x"), attempt=1, state=GangState.ABSENT)
    assert house.sync(unknown).gangs == ()


@pytest.mark.parametrize(("ask", "goal"), [("cancel", "cancelled"), ("hold", "held")])
def test_a_gang_that_dies_while_it_stops_ends_as_its_owner_asked_and_is_no_failure(
    house: House, ask: str, goal: str
) -> None:
    job = house.running()
    getattr(house.jobs, ask)(job.id, actor="user:eva")
    house.sync(house.absent(job))
    assert house.job(job).state == goal
    assert house.attempt(job).failure is None


# --- stops


def test_a_gang_is_killed_by_name_once_its_grace_is_over(house: House) -> None:
    job = house.running()
    house.jobs.cancel(job.id, actor="user:eva")
    house.clock.advance(59)
    assert house.sync().stops == ()
    house.clock.advance(2)
    stops = house.sync().stops
    assert [(one.job_id, one.attempt, one.reason) for one in stops] == [
        (job.id, 1, StopReason.CANCEL)
    ]


def test_a_driver_that_stays_after_its_last_word_is_killed_too(house: House) -> None:
    job = house.running()
    house.report(job, succeeded())
    house.clock.advance(61)
    assert len(house.sync().stops) == 1


def test_a_lost_gang_is_killed_and_its_proof_is_no_second_failure(house: House) -> None:
    job = house.running()
    house.watch(310, agents=["a"])
    assert [one.reason for one in house.sync().stops] == [StopReason.LOST]
    house.sync(house.absent(job))
    attempt = house.attempt(job, 1)
    assert attempt.state is AttemptState.GONE
    assert attempt.failure is FailureKind.LOST
    assert house.job(job).state is JobState.QUEUED
