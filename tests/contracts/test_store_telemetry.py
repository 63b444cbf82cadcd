"""What a store promises of stages, curves and checkpoints, on every database."""

from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain.errors import Stale
from service.domain.job import AttemptState, JobMove
from service.store.store import Store
from tests.contracts.lives import TOLD_AT, Lives, progress, wrote
from workers.contract.checkpoint_spec import BetterIs
from workers.contract.inventory import CheckpointPath
from workers.contract.reports import (
    FACTS_PER_REPORT_MAX,
    ProfileOrder,
    StageEnded,
    StageKind,
    StageStarted,
)

BEGAN = StageStarted(
    index=0, count=2, name="pretrain-01", kind=StageKind.RBM, epochs=5, steps_per_epoch=7
)
ENDED = StageEnded(
    index=0,
    name="pretrain-01",
    kind=StageKind.RBM,
    epochs=5,
    steps=35,
    loss_first=2.5,
    loss_last=1.25,
    seconds=3.5,
    metrics={"reconstruction_error": 0.125},
)
FINETUNE = BEGAN.model_copy(update={"index": 1, "name": "finetune", "kind": StageKind.FINETUNE})


def test_a_stage_begins_without_figures_and_ends_with_them(store: Store, lives: Lives) -> None:
    job, _ = lives.running()
    with store.write() as tx:
        tx.add_stage(job.id, 1, FINETUNE)
        tx.add_stage(job.id, 1, BEGAN)
    first, second = store.stages(job.id)
    assert (first.index, first.count, first.name, first.kind) == (
        0,
        2,
        "pretrain-01",
        StageKind.RBM,
    )
    assert (first.seconds, first.loss_first, first.loss_last, dict(first.metrics)) == (
        None,
        None,
        None,
        {},
    )
    with store.write() as tx:
        tx.end_stage(job.id, 1, ENDED)
    done, untouched = store.stages(job.id)
    assert (done.loss_first, done.loss_last, done.seconds) == (2.5, 1.25, 3.5)
    assert (done.count, done.epochs) == (2, 5)
    assert done.metrics == {"reconstruction_error": 0.125}
    assert untouched == second


def test_a_stage_that_goes_on_belongs_to_the_later_attempt(store: Store, lives: Lives) -> None:
    job, _ = lives.requeued()
    with store.write() as tx:
        tx.add_stage(job.id, 1, BEGAN)
    lives.reserve(job)
    with store.write() as tx:
        tx.add_stage(job.id, 2, BEGAN)
    [stage] = store.stages(job.id)
    assert stage.attempt == 2


def test_a_complete_stage_stays_complete_when_it_is_begun_again(store: Store, lives: Lives) -> None:
    job, _ = lives.running()
    with store.write() as tx:
        tx.add_stage(job.id, 1, BEGAN)
        tx.end_stage(job.id, 1, ENDED)
    [before] = store.stages(job.id)
    with store.write() as tx:
        tx.add_stage(job.id, 2, BEGAN)
    assert store.stages(job.id) == [before]


def test_a_stage_may_end_that_this_store_never_saw_begin(store: Store, lives: Lives) -> None:
    job, _ = lives.running()
    with store.write() as tx:
        tx.end_stage(job.id, 1, ENDED.model_copy(update={"metrics": {"sd": float("inf")}}))
    [stage] = store.stages(job.id)
    assert (stage.index, stage.seconds, stage.attempt) == (0, 3.5, 1)
    assert stage.metrics == {"sd": float("inf")}


def test_curves_come_in_order_and_a_limit_keeps_the_newest(store: Store, lives: Lives) -> None:
    job, _ = lives.running()
    with store.write() as tx:
        for step in range(1, 6):
            at = TOLD_AT + timedelta(seconds=step)
            tx.add_measurements(job.id, 1, [(at, progress(step))])
    lines = store.measurements(job.id, 3)
    assert [line.progress.step for line in lines] == [3, 4, 5]
    assert lines[-1].at == TOLD_AT + timedelta(seconds=5)
    assert lines[-1].progress == progress(5)
    assert store.latest(job.id) == lines[-1]
    assert [line.progress.step for line in store.measurements(job.id, 100)] == [1, 2, 3, 4, 5]
    earlier = store.measurements(job.id, 1, before_id=lines[0].id)
    assert [line.progress.step for line in earlier] == [2]


def test_the_first_line_of_a_stage_is_found_behind_those_of_others(
    store: Store, lives: Lives
) -> None:
    job, _ = lives.running()
    lines = [progress(step).model_copy(update={"stage_index": step // 3}) for step in range(9)]
    with store.write() as tx:
        tx.add_measurements(job.id, 1, [(TOLD_AT, line) for line in lines])
    found = [store.first_line(job.id, index) for index in range(4)]
    assert [one and one.progress.step for one in found] == [0, 3, 6, None]


def test_each_order_to_trace_has_a_higher_number_and_is_its_attempts(
    store: Store, lives: Lives
) -> None:
    job, attempt = lives.running()
    assert attempt.profile is None
    for number, steps in ((1, 10), (2, 3)):
        with store.write() as tx:
            tx.ask_profile(attempt, steps)
        now = store.attempt(job.id, attempt.number)
        assert now is not None
        assert now.profile == ProfileOrder(number=number, steps=steps)
    with pytest.raises(Stale), store.write() as tx:
        tx.ask_profile(replace(attempt, state=AttemptState.LOST), 1)
    assert lives.running()[1].profile is None


def test_a_job_without_a_curve_has_no_latest_line(store: Store, lives: Lives) -> None:
    job, _ = lives.running()
    assert store.latest(job.id) is None
    assert store.measurements(job.id, 10) == []


def test_a_line_whose_figures_are_not_finite_is_kept(store: Store, lives: Lives) -> None:
    job, _ = lives.running()
    told = progress(1, up=float("inf"), down=float("-inf"))
    with store.write() as tx:
        lines = [(TOLD_AT, told), (TOLD_AT, progress(2, nothing=float("nan")))]
        tx.add_measurements(job.id, 1, lines)
    first, second = store.measurements(job.id, 10)
    assert first.progress == told
    assert second.progress.metrics["nothing"] != second.progress.metrics["nothing"]


def test_readings_are_of_jobs_that_train_or_ended_lately(store: Store, lives: Lives) -> None:
    running, _ = lives.running(queue="night", resources={"workers": 2})
    stopping, _ = lives.running()
    ended, _ = lives.running()
    silent, _ = lives.running()
    with store.write() as tx:
        for job in (running, stopping, ended):
            tx.add_measurements(job.id, 1, [(TOLD_AT, progress(1, grad_norm=3.0))])
            tx.add_measurements(job.id, 1, [(TOLD_AT, progress(2))])
    lives.move_job(stopping, JobMove.STOP)
    lives.move_job(ended, JobMove.SUCCEED)
    found = store.readings(store.now() + timedelta(seconds=1))
    assert [(one.job_id, one.told.progress.step) for one in found] == [
        (running.id, 2),
        (stopping.id, 2),
    ]
    assert (found[0].name, found[0].queue, found[0].workers) == ("digits", "night", 2)
    assert found[0].told.figures == {"grad_norm": 3.0}
    lately = [one.job_id for one in store.readings(store.now() - timedelta(minutes=1))]
    assert lately == [running.id, stopping.id, ended.id]
    assert silent.id not in lately


def test_a_reading_has_its_stages_kind_and_the_current_checkpoint(
    store: Store, lives: Lives
) -> None:
    (job, _), (other, _) = lives.running(), lives.running()
    with store.write() as tx:
        for one in (job, other):
            tx.add_measurements(one.id, 1, [(TOLD_AT, progress(1, sd=float("inf")))])
        tx.add_stage(job.id, 1, BEGAN)
        tx.add_checkpoint(job.id, wrote(job, 1), TOLD_AT)
        tx.add_checkpoint(job.id, wrote(job, 2), TOLD_AT)
        tx.ask_prune(job.id, keep_last=0)
        tx.mark_pruned("a", [CheckpointPath(job_id=job.id, path=wrote(job, 2).ref.path)])
    first, second = store.readings(store.now())
    assert first.kind is StageKind.RBM
    assert first.checkpoint == store.current_checkpoint(job.id)
    assert first.checkpoint is not None
    assert first.checkpoint.ref.step == 1
    assert first.told.figures == {"sd": float("inf")}
    assert (second.kind, second.checkpoint) == (None, None)


def test_a_checkpoint_is_recorded_once_and_reads_back_as_told(store: Store, lives: Lives) -> None:
    job, _ = lives.running()
    told = wrote(job, 10)
    with store.write() as tx:
        assert tx.add_checkpoint(job.id, told, TOLD_AT)
        assert not tx.add_checkpoint(job.id, told, TOLD_AT)
    [row] = store.checkpoints(job.id)
    assert row.ref == told.ref
    assert (row.bytes, row.files, row.save_seconds, row.stall_seconds) == (10, 2, 0.5, 0.25)
    assert (row.written_at, row.prune_asked, row.pruned) == (TOLD_AT, False, False)
    assert (row.figure, row.pinned) == (None, False)


def test_the_newest_checkpoint_is_the_one_told_last_also_where_its_step_went_back(
    store: Store, lives: Lives
) -> None:
    job, _ = lives.requeued()
    lives.reserve(job)
    with store.write() as tx:
        for step, attempt in ((10, 1), (20, 1), (30, 1), (20, 2)):
            tx.add_checkpoint(job.id, wrote(job, step, attempt), TOLD_AT)
        tx.ask_prune(job.id, keep_last=2)
    told = [(row.ref.step, row.ref.attempt, row.prune_asked) for row in store.checkpoints(job.id)]
    assert told == [(20, 2, False), (30, 1, False), (20, 1, True), (10, 1, True)]
    with store.write() as tx:
        tx.ask_prune(job.id, keep_last=0)
    for current in ((20, 2), (30, 1)):
        found = store.current_checkpoint(job.id)
        assert found is not None
        assert (found.ref.step, found.ref.attempt) == current
        with store.write() as tx:
            tx.mark_pruned("a", [CheckpointPath(job_id=job.id, path=found.ref.path)])


def test_all_but_the_newest_checkpoints_of_one_job_are_asked_to_go(
    store: Store, lives: Lives
) -> None:
    (job, _), (other, _) = lives.running("a"), lives.running("a")
    with store.write() as tx:
        for step in (1, 2, 3, 4):
            tx.add_checkpoint(job.id, wrote(job, step), TOLD_AT)
            tx.add_checkpoint(other.id, wrote(other, step), TOLD_AT)
        tx.ask_prune(job.id, keep_last=2)
    asked = {row.ref.step: row.prune_asked for row in store.checkpoints(job.id)}
    assert asked == {1: True, 2: True, 3: False, 4: False}
    assert not any(row.prune_asked for row in store.checkpoints(other.id))

    paths = store.to_prune("a", limit=10)
    assert paths == [
        CheckpointPath(job_id=job.id, path=wrote(job, step).ref.path) for step in (1, 2)
    ]
    assert store.to_prune("a", limit=1) == paths[:1]
    assert store.to_prune("b", limit=10) == []


@pytest.mark.parametrize(("better", "kept"), [("min", 2), ("max", 4), (None, None)])
def test_the_best_checkpoint_by_its_figure_stays(
    better: BetterIs | None, kept: int | None, store: Store, lives: Lives
) -> None:
    job, _ = lives.running()
    # Of equal ones the first stays: the gang saved it because it was better than all before.
    figures = {1: 3.0, 2: 1.0, 3: 1.0, 4: 9.0, 5: 9.0, 6: None, 7: 2.0, 8: None}
    with store.write() as tx:
        for step, figure in figures.items():
            told = wrote(job, step).model_copy(update={"figure": figure})
            tx.add_checkpoint(job.id, told, TOLD_AT)
            tx.ask_prune(job.id, 2, better)
    rows = store.checkpoints(job.id)
    assert {row.ref.step: row.figure for row in rows} == figures
    assert {row.ref.step for row in rows if not row.prune_asked} == {7, 8} | {kept} - {None}


def test_a_pinned_checkpoint_stays_and_one_on_its_way_out_can_not_be_pinned(
    store: Store, lives: Lives
) -> None:
    job, _ = lives.running("a")
    (other, _) = lives.running("a")
    with store.write() as tx:
        for step in (1, 2, 3, 4):
            tx.add_checkpoint(job.id, wrote(job, step), TOLD_AT)
        assert tx.pin(job.id, wrote(job, 2).ref.path, pinned=True)
        assert not tx.pin(other.id, wrote(job, 3).ref.path, pinned=True)
        tx.ask_prune(job.id, 1)
        assert not tx.pin(job.id, wrote(job, 1).ref.path, pinned=True)
    rows = {row.ref.step: (row.pinned, row.prune_asked) for row in store.checkpoints(job.id)}
    assert rows == {1: (False, True), 2: (True, False), 3: (False, True), 4: (False, False)}
    with store.write() as tx:
        assert tx.pin(job.id, wrote(job, 2).ref.path, pinned=False)
        tx.ask_prune(job.id, 1)
    assert [row.ref.step for row in store.checkpoints(job.id) if not row.prune_asked] == [4]


def test_a_pruned_checkpoint_stays_in_the_list_and_is_not_asked_for_again(
    store: Store, lives: Lives
) -> None:
    job, _ = lives.running("a")
    with store.write() as tx:
        for step in (1, 2):
            tx.add_checkpoint(job.id, wrote(job, step), TOLD_AT)
        tx.ask_prune(job.id, keep_last=1)
    everything = [
        CheckpointPath(job_id=job.id, path=row.ref.path) for row in store.checkpoints(job.id)
    ]
    with store.write() as tx:
        tx.mark_pruned("another", everything)  # which never had the job
    assert not any(row.pruned for row in store.checkpoints(job.id))
    with store.write() as tx:
        tx.mark_pruned("a", everything)  # an agent that claims more than it was asked for
        tx.mark_pruned("a", [])
    assert [(row.ref.step, row.pruned) for row in store.checkpoints(job.id)] == [
        (2, False),
        (1, True),
    ]
    assert store.to_prune("a", limit=10) == []


def test_of_those_that_are_gone_only_the_newest_are_shown(
    store: Store, lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.questions.PRUNED_SHOWN", 2)
    job, _ = lives.running()
    with store.write() as tx:
        for step in range(6):
            tx.add_checkpoint(job.id, wrote(job, step), TOLD_AT)
        tx.pin(job.id, wrote(job, 1).ref.path, pinned=True)
        tx.ask_prune(job.id, keep_last=1)
        gone = [wrote(job, step).ref.path for step in (0, 2, 3, 4)]
        tx.mark_pruned("a", [CheckpointPath(job_id=job.id, path=path) for path in gone])
    assert [row.ref.step for row in store.checkpoints(job.id)] == [5, 4, 3, 1]


def test_the_agent_of_the_newest_attempt_prunes(store: Store, lives: Lives) -> None:
    job, _ = lives.requeued()
    with store.write() as tx:
        for step in (1, 2):
            tx.add_checkpoint(job.id, wrote(job, step), TOLD_AT)
        tx.ask_prune(job.id, keep_last=1)
    assert len(store.to_prune("a", limit=10)) == 1
    lives.reserve(job, agent="b")
    assert store.to_prune("a", limit=10) == []
    assert len(store.to_prune("b", limit=10)) == 1


def test_a_full_report_fits_into_one_transaction(store: Store, lives: Lives) -> None:
    job, attempt = lives.running()
    with store.write() as tx:
        tx.hold_facts(attempt, FACTS_PER_REPORT_MAX)
        lines = [(TOLD_AT, progress(step)) for step in range(FACTS_PER_REPORT_MAX)]
        tx.add_measurements(job.id, 1, lines)
        tx.add_measurements(job.id, 1, [])
    [reading] = store.readings(store.now())
    assert reading.told.progress == lines[-1][1]
    assert len(store.measurements(job.id, 2 * FACTS_PER_REPORT_MAX)) == FACTS_PER_REPORT_MAX
