"""What gangs tell: kept once, in order, only by the attempt that may speak; and what it decides."""

from collections.abc import Callable

import pytest

from service.domain.errors import Closed, Conflict, Stale, Unreachable
from service.domain.job import AttemptState, JobState
from service.domain.records import Attempt, Reason
from service.domain.retry import FREE_MAX
from tests.service.control.house import House, failed, progress, stopped, succeeded, wrote
from workers.contract.outcome import FailureKind, Outcome, Result, StopReason
from workers.contract.reports import (
    CheckpointWritten,
    Ended,
    Evaluated,
    GangStarted,
    Noticed,
    ProfileOrder,
    StageEnded,
    StageKind,
    StageStarted,
)
from workers.contract.wire import JobId

STAGE = StageStarted(
    index=0, count=1, name="finetune", kind=StageKind.FINETUNE, epochs=2, steps_per_epoch=5
)
STAGE_END = StageEnded(
    index=0,
    name="finetune",
    kind=StageKind.FINETUNE,
    epochs=2,
    steps=10,
    loss_first=1.0,
    loss_last=0.5,
    seconds=3.0,
)

# --- facts


def test_a_gangs_first_word_makes_its_attempt_run(house: House) -> None:
    job = house.starting()
    house.report(job, GangStarted(world_size=1))
    attempt = house.attempt(job)
    assert attempt.state is AttemptState.RUNNING
    assert attempt.started_at == house.clock.now()


def test_facts_become_rows(house: House) -> None:
    job = house.running()
    evaluated = Evaluated(stage_index=0, step=10, split="test", metrics={"test_error": 7.25})
    noticed = Noticed(code="vanishing_gradient", sentence="Layer 1 learns nothing.")
    answer = house.report(
        job, STAGE, progress(5), wrote(job.id, 5), STAGE_END, evaluated, noticed, progress(10)
    )
    assert answer.held == 8
    status = house.jobs.status(job.id)
    assert [stage.loss_last for stage in status.stages] == [0.5]
    assert status.latest is not None
    assert status.latest.progress.step == 10
    assert status.checkpoint is not None
    assert status.checkpoint.ref.step == 5
    assert house.attempt(job).made_progress
    notices = {one.reason: one.message for one in house.jobs.events(job.id) if one.move == "notice"}
    assert notices == {
        "evaluated": "test: test_error 7.25",
        "vanishing_gradient": "Layer 1 learns nothing.",
    }


def test_a_repeated_report_counts_once(house: House) -> None:
    job = house.running()
    attempt = house.attempt(job)
    facts = [(2, progress(1)), (3, progress(2))]
    for _ in range(2):
        assert house.tell(attempt, facts).held == 3
    assert len(house.jobs.measurements(job.id, limit=10)) == 2


def test_facts_are_kept_in_their_order_and_gaps_are_none_of_our_business(house: House) -> None:
    job = house.running()
    house.tell(house.attempt(job), [(9, progress(3)), (4, progress(1)), (7, progress(2))])
    steps = [one.progress.step for one in house.jobs.measurements(job.id, limit=10)]
    assert steps == [1, 2, 3]
    assert house.attempt(job).held == 9


def test_a_report_without_facts_is_a_heartbeat(house: House) -> None:
    job = house.running()
    house.clock.advance(10)
    assert house.report(job).stop is None
    assert house.attempt(job).heard_at == house.clock.now()


def test_old_checkpoints_are_to_be_deleted_once_there_are_enough_newer_ones(house: House) -> None:
    job = house.running(checkpoint={"keep_last": 2})
    house.report(job, *(wrote(job.id, step) for step in (1, 2, 3)))
    assert [one.path for one in house.sync().prune] == [wrote(job.id, 1).ref.path]
    house.sync(pruned=house.sync().prune)
    assert house.sync().prune == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "jobs/somebody-elses/checkpoints/finetune-000000005-a1"},
        {"path": "jobs/../../etc"},
        {"stage": "../../x"},
        {"attempt": 2},
    ],
)
def test_a_checkpoint_that_is_not_the_jobs_own_is_refused_with_a_notice(
    house: House, changes: dict[str, object]
) -> None:
    job = house.running()
    ref = wrote(job.id, 5).ref.model_copy(update=changes)
    if "path" not in changes:
        path = f"jobs/{job.id}/checkpoints/{ref.stage}-{ref.step:09d}-a{ref.attempt}"
        ref = ref.model_copy(update={"path": path})
    fact = CheckpointWritten(ref=ref, bytes=1, files=1, save_seconds=0.0, stall_seconds=0.0)
    house.report(job, fact)
    assert house.jobs.checkpoints(job.id) == []
    assert not house.attempt(job).made_progress
    assert "checkpoint_refused" in [one.reason for one in house.jobs.events(job.id)]


def test_a_predecessors_checkpoint_is_adopted_under_the_new_attempts_number(house: House) -> None:
    job = house.running()
    house.report(job, failed(FailureKind.WORKER_DIED))
    job = house.again(job)
    house.report(job, wrote(job.id, 7, attempt=1))
    assert [one.ref for one in house.jobs.checkpoints(job.id)] == [wrote(job.id, 7).ref]


# --- the fence


def test_an_attempt_that_is_gone_is_told_to_end(house: House) -> None:
    job = house.running()
    attempt = house.attempt(job)
    house.sync(house.absent(job))
    with pytest.raises(Closed, match="is over"):
        house.tell(attempt, [(2, progress(1))])


def test_after_the_next_attempt_is_reserved_the_last_one_is_refused(house: House) -> None:
    job = house.running()
    old = house.attempt(job)
    house.watch(310, agents=["a"])
    assert house.attempt(job).state is AttemptState.LOST
    assert house.schedule() == 1
    with pytest.raises(Closed, match=r"attempt 2 .* has taken over from 1"):
        house.tell(old, [(2, wrote(job.id, 5))])
    assert house.jobs.checkpoints(job.id) == []


def test_a_lost_attempt_is_heard_until_the_next_one_is_reserved_and_told_to_stop(
    house: House,
) -> None:
    job = house.running()
    house.watch(310, agents=["a"])
    answer = house.report(job, wrote(job.id, 5))
    assert answer.stop is not None
    assert answer.stop.reason is StopReason.LOST
    assert len(house.jobs.checkpoints(job.id)) == 1


def test_a_lost_attempts_late_success_counts(house: House) -> None:
    job = house.running()
    house.watch(310, agents=["a"])
    assert house.job(job).state is JobState.QUEUED
    house.report(job, succeeded(test_error=5.0))
    assert house.job(job).state is JobState.SUCCEEDED
    assert house.job(job).metrics == {"test_error": 5.0}


def test_a_lost_attempts_late_failure_counts_only_where_it_would_repeat(house: House) -> None:
    mends, repeats = house.running(), house.running()
    house.watch(310, agents=["a"])
    house.report(mends, failed(FailureKind.WORKER_DIED))
    house.report(repeats, failed(FailureKind.CONFIG, "no such layer"))
    assert house.job(mends).state is JobState.QUEUED
    assert house.job(repeats).state is JobState.FAILED
    assert house.job(repeats).reason_text == "no such layer"


def test_only_the_first_last_word_counts(house: House) -> None:
    job = house.running()
    house.report(job, failed(FailureKind.WORKER_DIED))
    house.report(job, succeeded())
    assert house.job(job).state is JobState.QUEUED


# --- what an outcome makes of the job


def test_a_success_ends_the_job_with_its_figures_and_the_attempt_waits_for_proof(
    house: House,
) -> None:
    job = house.running()
    house.report(job, succeeded(test_error=6.5))
    done = house.job(job)
    assert (done.state, done.metrics) == (JobState.SUCCEEDED, {"test_error": 6.5})
    assert done.finished_at == house.clock.now()
    assert house.attempt(job).state is AttemptState.STOPPING
    house.sync(house.absent(job))
    assert house.attempt(job).state is AttemptState.GONE


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_success_goes_before_every_order(house: House, is_cancelled: bool) -> None:
    job = house.running()
    if is_cancelled:
        house.jobs.cancel(job.id, actor="user:eva")
    house.report(job, succeeded())
    assert house.job(job).state is JobState.SUCCEEDED


def test_a_dead_worker_is_tried_again_at_once_and_from_then_on_after_a_pause(house: House) -> None:
    job = house.running()
    house.report(job, failed(FailureKind.WORKER_DIED, "signal 9"))
    queued = house.job(job)
    assert (queued.state, queued.failure) == (JobState.QUEUED, FailureKind.WORKER_DIED)
    assert queued.not_before is None
    assert queued.reason_text == "worker_died: retry 1 of 3: signal 9"
    house.again(job)
    house.report(job, failed(FailureKind.WORKER_DIED))
    assert house.job(job).not_before is not None


def test_a_job_fails_beyond_its_budget_with_the_sentence_of_its_gang(house: House) -> None:
    job = house.running()
    for _ in range(3):
        house.report(job, failed(FailureKind.HANG))
        job = house.again(job)
    house.report(job, failed(FailureKind.HANG, "rank 1 lags"))
    done = house.job(job)
    assert (done.state, done.failure, done.reason_text) == (
        JobState.FAILED,
        FailureKind.HANG,
        "rank 1 lags",
    )


def test_a_checkpoint_makes_the_budget_whole_again(house: House) -> None:
    job = house.running()
    for step in range(1, 7):
        house.report(job, wrote(job.id, step, attempt=step), failed(FailureKind.HANG))
        assert house.job(job).state is JobState.QUEUED
        job = house.again(job)


def test_losses_that_are_nobodys_fault_hold_the_job_after_many_in_a_row(house: House) -> None:
    job = house.running()
    for _ in range(FREE_MAX):
        house.report(job, failed(FailureKind.NODE_LOST))
        job = house.again(job)
    house.report(job, failed(FailureKind.NODE_LOST))
    assert house.job(job).state is JobState.HELD
    assert "in a row without progress" in house.job(job).reason_text


def test_five_quick_deaths_are_poison_and_hold_the_job(house: House) -> None:
    job = house.running()
    kinds = [FailureKind.WORKER_DIED, FailureKind.HANG] * 2
    for kind in kinds:
        house.report(job, failed(kind))
        job = house.again(job)
    house.report(job, failed(FailureKind.STORAGE))
    assert house.job(job).state is JobState.HELD
    assert house.job(job).failure is FailureKind.POISON


def test_a_failure_without_a_kind_is_a_dead_worker(house: House) -> None:
    job = house.running()
    house.report(job, Ended(outcome=Outcome(result=Result.FAILED)))
    assert house.job(job).failure is FailureKind.WORKER_DIED


@pytest.mark.parametrize(
    ("word", "state"),
    [
        (stopped(StopReason.TIME_LIMIT), JobState.TIMED_OUT),
        (stopped(StopReason.UNREACHABLE), JobState.QUEUED),
        (stopped(StopReason.CANCEL), JobState.QUEUED),  # nobody had asked for it
    ],
)
def test_a_gang_that_stops_by_itself_is_taken_by_its_word(
    house: House, word: Ended, state: JobState
) -> None:
    job = house.running()
    house.report(job, word)
    assert house.job(job).state is state


@pytest.mark.parametrize("word", [stopped(StopReason.HOLD), failed(FailureKind.CONFIG)])
@pytest.mark.parametrize("ask", ["cancel", "hold"])
def test_what_its_owner_asked_for_goes_before_how_it_failed(
    house: House, word: Ended, ask: str
) -> None:
    job = house.running()
    act: Callable[..., object] = getattr(house.jobs, ask)
    act(job.id, actor="user:eva")
    house.report(job, word)
    goal = {"cancel": JobState.CANCELLED, "hold": JobState.HELD}[ask]
    assert house.job(job).state is goal


def test_a_requeued_job_is_not_stopping_any_more(house: House) -> None:
    job = house.running()
    house.report(job, stopped(StopReason.UNREACHABLE))
    assert house.job(job).stop_reason is None
    assert house.job(job).reason is Reason.RETRY


# --- orders, wake-ups, crossings


def test_the_grace_of_an_order_runs_down(house: House) -> None:
    job = house.running()
    house.jobs.hold(job.id, actor="user:eva")
    house.clock.advance(45)
    order = house.report(job).stop
    assert order is not None
    assert order.grace_seconds == pytest.approx(15.0)
    house.clock.advance(45)
    order = house.report(job).stop
    assert order is not None
    assert order.grace_seconds == 1.0


def test_an_order_to_trace_stands_in_every_answer_of_its_attempt(house: House) -> None:
    job = house.running()
    assert house.report(job).profile is None
    house.jobs.profile(job.id, 5, actor="user:eva")
    assert house.report(job).profile == house.report(job).profile == ProfileOrder(number=1, steps=5)
    house.jobs.profile(job.id, 9, actor="user:eva")
    assert house.report(job).profile == ProfileOrder(number=2, steps=9)
    asked = [event for event in house.jobs.events(job.id) if event.reason == "profile_asked"]
    assert [(event.attempt, event.actor) for event in asked] == [(1, "user:eva")] * 2


def test_only_a_job_that_runs_can_be_traced(house: House) -> None:
    job = house.running()
    house.report(job, succeeded())
    with pytest.raises(Conflict, match="is succeeded: there are no steps to trace"):
        house.jobs.profile(job.id, 5, actor="user:eva")


def test_news_wake_the_jobs_watchers_and_an_end_wakes_the_queue_and_the_agent(
    house: House,
) -> None:
    job = house.running()
    house.bus.woken.clear()
    house.report(job)
    assert house.bus.woken == []
    house.report(job, progress(1))
    assert house.bus.woken == [f"job/{job.id}"]
    house.report(job, succeeded())
    assert house.bus.woken[1:] == [f"job/{job.id}", "queue", "agent/a"]


def test_a_report_that_crosses_a_repeat_of_itself_is_taken_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = house.running()
    attempt = house.attempt(job)
    read = house.store.attempt

    def read_then_crossed(job_id: JobId, number: int) -> Attempt | None:
        found = read(job_id, number)
        monkeypatch.undo()
        house.tell(attempt, [(2, progress(1))])
        return found

    monkeypatch.setattr(house.store, "attempt", read_then_crossed)
    assert house.tell(attempt, [(2, progress(1)), (3, progress(2))]).held == 3
    steps = [one.progress.step for one in house.jobs.measurements(job.id, limit=10)]
    assert steps == [1, 2]


def test_a_row_that_never_stands_still_is_an_error_that_can_be_tried_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = house.running()

    def stale(*_: object) -> None:
        raise Stale("again and again")

    monkeypatch.setattr(house.ingest, "_look", lambda attempt: (house.job(job), attempt))
    monkeypatch.setattr("service.store.facts.FactWrites.hold_facts", stale)
    with pytest.raises(Unreachable, match="moves too fast"):
        house.report(job)
