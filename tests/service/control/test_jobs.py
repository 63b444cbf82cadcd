"""What people ask: submit once, refuse what can't work; cancel, hold, release from every state."""

from pathlib import Path

import pytest

from service.domain.asks import JobFilter
from service.domain.errors import BadInput, Conflict, NotFound
from service.domain.job import AttemptState, JobState
from service.domain.records import Attempt, Job, Reason
from tests.service.control.house import House, a_spec, stopped, succeeded
from workers.contract.outcome import StopReason
from workers.contract.reports import GangStarted

# --- submit


def test_a_submit_is_stored_and_wakes_the_queue(house: House) -> None:
    answer = house.jobs.submit(a_spec(), key="k", owner="user:eva")
    assert answer.created
    assert house.job(answer.job).state is JobState.QUEUED
    assert house.bus.woken == ["queue"]


def test_the_same_key_and_spec_give_the_same_job(house: House) -> None:
    first = house.jobs.submit(a_spec(), key="k", owner="user:eva")
    second = house.jobs.submit(a_spec(), key="k", owner="user:eva")
    assert (second.created, second.job.id) == (False, first.job.id)


def test_the_same_key_with_another_spec_is_a_conflict(house: House) -> None:
    house.jobs.submit(a_spec(), key="k", owner="user:eva")
    with pytest.raises(Conflict, match="use a new key"):
        house.jobs.submit(a_spec(seed=1), key="k", owner="user:eva")


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_a_key_has_a_length(house: House, key: str) -> None:
    with pytest.raises(BadInput, match="key"):
        house.jobs.submit(a_spec(), key=key, owner="user:eva")


def test_ids_are_version_7_and_later_ones_sort_later(house: House) -> None:
    ids = [house.submit().id for _ in range(50)]
    assert ids == sorted(ids)
    assert {one[14] for one in ids} == {"7"}


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "s3://elsewhere/x", "file::memory://x"])
def test_data_outside_of_every_root_is_refused_with_place_and_remedy(
    house: House, path: str
) -> None:
    with pytest.raises(BadInput) as refused:
        house.submit(data={"source": "npz", "path": path})
    assert refused.value.place == "data.path"
    assert house.storage_url in refused.value.sentence
    assert "STRATA_DATA_ROOTS" in refused.value.remedy


def test_data_that_is_not_there_is_refused(house: House) -> None:
    with pytest.raises(BadInput, match=r"data\.path: there is no file://.*/storage/absent\.npz"):
        house.submit(data={"source": "npz", "path": "absent.npz"})


@pytest.mark.parametrize(("path", "said"), [("absent.npz", "there is no"), ("/etc", "outside")])
def test_the_samples_of_pretraining_are_looked_for_too(house: House, path: str, said: str) -> None:
    own = {"source": "npz", "path": path}
    with pytest.raises(BadInput, match=rf"pretraining\.data\.path: .*{said}"):
        house.submit(pretraining={"method": "denoising_autoencoder", "lr": 0.1, "data": own})


def test_data_below_the_storage_or_a_named_root_is_accepted(tmp_path: Path) -> None:
    storage, root = tmp_path / "storage", tmp_path / "data"
    for folder in (storage, root):
        folder.mkdir()
        (folder / "x.npz").touch()
    house = House(storage, data_roots=(str(root),))
    house.submit(data={"source": "npz", "path": "x.npz"})
    house.submit(data={"source": "npz", "path": str(root / "x.npz")})


def test_data_where_only_the_workers_can_look_is_accepted(tmp_path: Path) -> None:
    house = House(tmp_path, data_roots=("unheard-of://bucket",))
    house.submit(data={"source": "npz", "path": "unheard-of://bucket/x.npz"})


def test_a_gang_that_no_known_cluster_holds_is_refused_with_what_there_is(house: House) -> None:
    house.sync()
    with pytest.raises(BadInput, match=r"resources: needs 9 workers .* 8 CPUs"):
        house.submit(resources={"workers": 9})


def test_before_any_node_is_known_every_gang_is_accepted(house: House) -> None:
    assert house.submit(resources={"workers": 9}).state is JobState.QUEUED


def test_a_submit_that_was_accepted_once_is_answered_again_though_it_would_be_refused_now(
    house: House,
) -> None:
    large = a_spec(resources={"workers": 9})
    first = house.jobs.submit(large, key="k", owner="user:eva")
    house.sync()
    assert house.jobs.submit(large, key="k", owner="user:eva").job.id == first.job.id


# --- dry run


def test_a_dry_run_says_that_it_would_start_and_stores_nothing(house: House) -> None:
    house.sync()
    answer = house.jobs.dry_run(a_spec())
    assert (answer.starts, answer.reason) == (True, Reason.RESERVED)
    assert house.jobs.list(JobFilter()) == []


def test_a_dry_run_behind_a_full_cluster_says_why_it_would_wait(house: House) -> None:
    house.running(resources={"workers": 8})
    answer = house.jobs.dry_run(a_spec())
    assert (answer.starts, answer.reason) == (False, Reason.NO_CAPACITY)
    assert "until one of 1 running job ends" in answer.sentence


# --- find


def test_a_job_is_found_by_its_id_its_beginning_its_end_and_as_the_latest(house: House) -> None:
    house.submit()
    job = house.submit()
    for ref in (job.id, job.id[-8:], job.id[:-1], job.id[-6:].upper(), "@latest"):
        assert house.jobs.find(ref).id == job.id


def test_an_id_that_means_two_jobs_is_refused_with_both(house: House) -> None:
    first, second = house.submit(), house.submit()
    with pytest.raises(BadInput, match="more than one") as refused:
        house.jobs.find(first.id[:2])
    assert first.id in str(refused.value)
    assert second.id in str(refused.value)


@pytest.mark.parametrize("ref", ["", "nothing", "@latest", "%"])
def test_what_is_not_there_is_not_found(house: House, ref: str) -> None:
    with pytest.raises(NotFound):
        house.jobs.find(ref)


def test_jobs_are_listed_newest_first_and_by_state(house: House) -> None:
    first, second = house.submit(), house.submit()
    house.jobs.hold(first.id, actor="user:eva")
    assert [one.id for one in house.jobs.list(JobFilter())] == [second.id, first.id]
    held = house.jobs.list(JobFilter(states=frozenset({JobState.HELD})))
    assert [one.id for one in held] == [first.id]


# --- cancel, hold, release


def both(house: House, job: Job) -> tuple[JobState, AttemptState]:
    return house.job(job).state, house.attempt(job).state


def test_a_queued_and_a_held_job_are_cancelled_at_once(house: House) -> None:
    queued, held = house.submit(), house.submit()
    house.jobs.hold(held.id, actor="user:eva")
    for job in (queued, held):
        assert house.jobs.cancel(job.id, actor="user:eva").state is JobState.CANCELLED


def test_cancelling_before_the_claim_leaves_no_gang_to_tell(house: House) -> None:
    job = house.reserved()
    assert house.jobs.cancel(job.id, actor="user:eva").state is JobState.CANCELLED
    assert both(house, job) == (JobState.CANCELLED, AttemptState.GONE)
    assert house.sync().gangs == ()


def test_cancelling_a_running_job_tells_its_gang_and_ends_with_its_word(house: House) -> None:
    job = house.running()
    house.jobs.cancel(job.id, actor="user:eva")
    assert both(house, job) == (JobState.STOPPING, AttemptState.STOPPING)
    assert "agent/a" in house.bus.woken
    order = house.report(job).stop
    assert order is not None
    assert order.reason is StopReason.CANCEL
    house.report(job, stopped(StopReason.CANCEL))
    assert house.job(job).state is JobState.CANCELLED


def test_cancelling_a_gang_that_is_still_starting_stops_it_as_soon_as_it_speaks(
    house: House,
) -> None:
    job = house.starting()
    house.jobs.cancel(job.id, actor="user:eva")
    order = house.report(job, GangStarted(world_size=1)).stop
    assert order is not None
    assert order.reason is StopReason.CANCEL


def test_cancel_overrules_hold(house: House) -> None:
    job = house.running()
    house.jobs.hold(job.id, actor="user:eva")
    house.jobs.cancel(job.id, actor="user:eva")
    house.report(job, stopped(StopReason.HOLD))
    assert house.job(job).state is JobState.CANCELLED


def test_hold_does_not_overrule_cancel(house: House) -> None:
    job = house.running()
    house.jobs.cancel(job.id, actor="user:eva")
    with pytest.raises(Conflict, match="nothing to hold"):
        house.jobs.hold(job.id, actor="user:eva")


def test_a_cancel_that_is_repeated_while_it_works_changes_nothing(house: House) -> None:
    job = house.running()
    house.jobs.cancel(job.id, actor="user:eva")
    moves = house.moves(job)
    house.jobs.cancel(job.id, actor="user:eva")
    assert house.moves(job) == moves


def test_a_final_job_can_be_neither_cancelled_nor_held_nor_released(house: House) -> None:
    job = house.running()
    house.report(job, succeeded())
    for act in (house.jobs.cancel, house.jobs.hold, house.jobs.release):
        with pytest.raises(Conflict, match="succeeded"):
            act(job.id, actor="user:eva")
    assert house.job(job).state is JobState.SUCCEEDED


def test_a_held_job_runs_again_after_its_release_and_not_before(house: House) -> None:
    job = house.running()
    house.jobs.hold(job.id, actor="user:eva")
    with pytest.raises(Conflict, match="wait until it is held"):
        house.jobs.release(job.id, actor="user:eva")
    house.report(job, stopped(StopReason.HOLD))
    assert house.job(job).state is JobState.HELD
    house.sync(house.absent(job))
    assert house.schedule() == 0
    released = house.jobs.release(job.id, actor="user:eva")
    assert released.stop_reason is None
    assert house.schedule() == 1
    assert house.job(job).attempt == 2


def test_holding_before_the_claim_holds_at_once(house: House) -> None:
    job = house.reserved()
    assert house.jobs.hold(job.id, actor="user:eva").state is JobState.HELD
    assert house.attempt(job).state is AttemptState.GONE


def test_hold_and_release_may_be_repeated(house: House) -> None:
    job = house.submit()
    for _ in range(2):
        assert house.jobs.hold(job.id, actor="user:eva").state is JobState.HELD
    for _ in range(2):
        assert house.jobs.release(job.id, actor="user:eva").state is JobState.QUEUED


def test_a_cancel_that_crosses_a_claim_reads_again_and_tells_the_gang(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = house.reserved()
    read = house.store.attempt

    def read_then_claimed(job_id: object, number: int) -> Attempt | None:
        found = read(job.id, number)
        monkeypatch.undo()
        house.claim(job)
        return found

    monkeypatch.setattr(house.store, "attempt", read_then_claimed)
    house.jobs.cancel(job.id, actor="user:eva")
    assert both(house, job) == (JobState.STOPPING, AttemptState.STOPPING)


def test_the_status_tells_the_whole_course(house: House) -> None:
    job = house.running()
    status = house.jobs.status(job.id)
    assert status.job.state is JobState.RUNNING
    assert [one.number for one in status.attempts] == [1]
    assert status.latest is None
    assert status.checkpoint is None
    assert house.jobs.events(job.id)[0].move == "submit"
