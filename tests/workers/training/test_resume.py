"""A job that was interrupted ends with the very bits of one that was not."""

import threading
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint._state_dict_stager import StateDictStager

from tests.workers.checkpoint.failing_files import FailingFiles
from tests.workers.training.attempts import (
    Attempt,
    Recorder,
    Run,
    launch,
    recipe,
    run_alone,
    run_gang,
    saved_tensors,
)
from workers.checkpoint.background import BackgroundSaves
from workers.contract.outcome import Result, StopReason, StorageFailure
from workers.contract.recipe import Recipe
from workers.contract.reports import (
    CheckpointWritten,
    Evaluated,
    Noticed,
    Progress,
    StageEnded,
    StageStarted,
)
from workers.parallel.mesh import Seat
from workers.training import progress
from workers.training.run import train

MODEL = {
    "kind": "mlp",
    "hidden": [12, 9],
    "activation": "sigmoid",
    "init": "xavier",
    "gain": 4.0,
    "dropout": 0.1,
}
DATA = {"source": "digits", "test_fraction": 0.2, "validation_fraction": 0.1}
TRAINING = {"epochs": 2, "batch_size": 101, "schedule": {"name": "cosine", "warmup_epochs": 0.5}}
PRETRAINING: dict[str, dict[str, Any]] = {
    "denoising_autoencoder": {"tied_weights": False},
    "rbm": {"cd_k": 2, "momentum_switch_epoch": 1},
    "persistent chains": {"method": "rbm", "persistent": True},
    "greedy_supervised": {},
}
WORLD_SIZE = 3  # the least at which sums depend on the order; 101 does not divide by it
STEPS_PER_EPOCH = 12  # 1,293 samples in batches of 101
STAGE = 2 * STEPS_PER_EPOCH
MOMENTS = {
    "in the first stage": 5,
    "between two epochs": STEPS_PER_EPOCH,
    "in the second stage": STAGE + 7,
    "between two stages": 2 * STAGE,
    "in the fine-tuning": 2 * STAGE + 17,
}


@pytest.fixture(autouse=True)
def _every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.0)


def _recipe(method: str, every_steps: int = 1_000_000, **model: Any) -> Recipe:
    pretraining = {"method": method, "epochs": 2, "batch_size": 101, **PRETRAINING[method]}
    return recipe(
        data=DATA,
        model={**MODEL, **model},
        pretraining=pretraining,
        training=TRAINING,
        checkpoint={"every_steps": every_steps},
        seed=3,
    )


def _figures(attempt: Attempt) -> dict[str, Any]:
    """Every figure that an attempt told, by what it is of; durations left out."""
    figures: dict[str, Any] = {}
    for fact in attempt.recorder.facts:
        if isinstance(fact, Progress):
            figures[f"loss of step {fact.step}"] = (fact.loss, fact.lr, fact.samples, fact.metrics)
        elif isinstance(fact, StageEnded):
            figures[f"end of {fact.name}"] = fact.model_copy(update={"seconds": 0.0})
        elif isinstance(fact, Evaluated):
            figures[f"{fact.split} at {fact.step}"] = fact.metrics
    return {**figures, "outcome": attempt.outcome.metrics}


def _assert_same(whole: Attempt, whole_at: Path, resumed: Attempt, resumed_at: Path) -> None:
    assert resumed.outcome.result is Result.SUCCEEDED
    expected, found = _figures(whole), _figures(resumed)
    assert len(found) > 1
    assert {name: expected[name] for name in found} == found
    weights = saved_tensors(whole_at, whole.recorder.refs[0])
    same = saved_tensors(resumed_at, resumed.recorder.refs[0])
    assert weights.keys() == same.keys()
    assert any(name.startswith("rank-0") for name in weights)
    assert [name for name in weights if not torch.equal(weights[name], same[name])] == []


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("method", PRETRAINING)
def test_a_stopped_job_goes_on_to_the_same_bits(method: str, moment: str, tmp_path: Path) -> None:
    spec = launch(_recipe(method), tmp_path / "whole")
    whole = run_alone(spec)
    torch.manual_seed(0)  # the second attempt must not live on what the first left behind
    stopped = run_alone(launch(_recipe(method), tmp_path / "cut"), stop_at=MOMENTS[moment])
    assert stopped.outcome.result is Result.STOPPED
    assert stopped.outcome.stop_reason is StopReason.PREEMPT
    assert stopped.rank_steps == [MOMENTS[moment]]
    torch.manual_seed(1)
    again = launch(_recipe(method), tmp_path / "cut", 2, stopped.recorder.refs)
    _assert_same(whole, tmp_path / "whole", run_alone(again), tmp_path / "cut")


def test_every_checkpoint_on_the_way_leads_to_the_same_bits(tmp_path: Path) -> None:
    normalized = _recipe("greedy_supervised", every_steps=9, normalization="batch")
    whole = run_alone(launch(normalized, tmp_path))
    refs = whole.recorder.refs
    assert len(refs) == 72 // 9 + 3 - 1  # a stage's end at a multiple of 9 is saved once
    for k in range(1, len(refs)):
        resumed = run_alone(launch(normalized, tmp_path, 1 + k, refs[k:]))
        _assert_same(whole, tmp_path, resumed, tmp_path)


def test_a_copy_that_is_done_as_late_as_possible_leads_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward pass has changed the running statistics by then, but not those of the copy."""
    is_waited_for = threading.Event()
    stage, wait_staged = StateDictStager.stage, BackgroundSaves.wait_staged
    num_held = 0

    def held(stager: Any, *args: Any, **options: Any) -> Any:
        nonlocal num_held
        assert is_waited_for.wait(timeout=30)
        num_held += 1
        return stage(stager, *args, **options)

    def waited(saves: BackgroundSaves) -> None:
        is_waited_for.set()
        wait_staged(saves)
        is_waited_for.clear()

    normalized = _recipe("greedy_supervised", every_steps=9, normalization="batch")
    with monkeypatch.context() as patched:
        patched.setattr(StateDictStager, "stage", held)
        patched.setattr(BackgroundSaves, "wait_staged", waited)
        whole = run_alone(launch(normalized, tmp_path))
    assert num_held == 72 // 9 - 1  # the last one is saved at the end of a stage
    for k in (2, 5, 7):
        resumed = run_alone(launch(normalized, tmp_path, 1 + k, whole.recorder.refs[k:]))
        _assert_same(whole, tmp_path, resumed, tmp_path)


def _on_failing_disk(
    folder: Path, every_steps: int, writes: Container[int], stop_at: int | None = None
) -> Attempt | str:
    """An attempt on a disk that is full for some files, of which a save has five."""
    folder.mkdir(exist_ok=True)
    FailingFiles.arm(writes=writes)
    spec = launch(
        recipe(model=MODEL, training=TRAINING, checkpoint={"every_steps": every_steps}), folder
    )
    spec = spec.model_copy(update={"storage_url": f"failing://{folder}"})
    recorder = Recorder(stop_at)
    try:
        outcome = train(spec, Seat(0, 1, torch.device("cpu")), recorder)
    except StorageFailure as failure:
        assert FailingFiles.num_failures > 0
        return f"{failure}, {len(recorder.refs)} told"
    return Attempt(outcome, recorder, recorder.steps[-1:])


def test_training_goes_on_with_an_event_where_a_checkpoint_was_refused(tmp_path: Path) -> None:
    attempt = _on_failing_disk(tmp_path, 8, writes=[8])  # in the second one
    assert isinstance(attempt, Attempt)
    assert attempt.outcome.result is Result.SUCCEEDED
    assert [ref.step for ref in reversed(attempt.recorder.refs)] == [8, 24, 28]
    (notice,) = (one for one in attempt.recorder.of(Noticed) if one.code == "checkpoint_failed")
    assert "No space left" in notice.sentence
    left = sorted(path.parent.name for path in tmp_path.rglob("manifest.json"))
    assert left == sorted(ref.path.rpartition("/")[2] for ref in attempt.recorder.refs)


def test_a_disk_that_stays_full_ends_the_attempt_and_the_checkpoint_before_it_loads(
    tmp_path: Path,
) -> None:
    text = _on_failing_disk(tmp_path, 2, writes=range(6, 1000))
    assert isinstance(text, str)
    assert "No space left" in text
    assert text.endswith("1 told")


def test_a_stage_does_not_end_without_its_checkpoint(tmp_path: Path) -> None:
    text = _on_failing_disk(tmp_path, 1_000_000, writes=range(1, 1000))
    assert isinstance(text, str)
    assert text.endswith("0 told")


def test_a_stop_whose_checkpoint_was_refused_in_the_background_is_no_stop(tmp_path: Path) -> None:
    text = _on_failing_disk(tmp_path, 1_000_000, writes=range(1, 1000), stop_at=9)
    assert isinstance(text, str)
    assert text.endswith("0 told")


def test_a_checkpoint_is_saved_at_every_evaluation_that_is_the_best_so_far(tmp_path: Path) -> None:
    spec = recipe(
        data=DATA,
        model=MODEL,
        training={**TRAINING, "epochs": 6},
        checkpoint={"every_steps": 1_000_000, "best": {"metric": "validation_loss"}},
    )
    attempt = run_alone(launch(spec, tmp_path))
    evaluated = [one for one in attempt.recorder.of(Evaluated) if one.split == "validation"]
    losses = {one.step: one.metrics["loss"] for one in evaluated}
    told = [(one.ref.step, one.figure) for one in attempt.recorder.of(CheckpointWritten)]
    last = 6 * STEPS_PER_EPOCH
    best = [step for step in losses if losses[step] == min(losses[k] for k in losses if k <= step)]
    assert len(best) > 1
    assert [step for step, _ in told] == sorted({*best, last})
    assert all(figure == losses[step] for step, figure in told)
    # A resumed job knows which one was the best.
    again = run_alone(launch(spec, tmp_path, 2, attempt.recorder.refs[-1:]))
    later = [(one.ref.step, one.figure) for one in again.recorder.of(CheckpointWritten)]
    assert later == told[1:]


def test_a_job_that_was_over_is_only_evaluated(tmp_path: Path) -> None:
    whole = run_alone(launch(_recipe("rbm"), tmp_path))
    again = run_alone(launch(_recipe("rbm"), tmp_path, 2, whole.recorder.refs))
    assert again.outcome.metrics == whole.outcome.metrics
    assert again.recorder.steps == []
    # A stage whose end was saved may not have been told: it is told again.
    assert [fact.name for fact in again.recorder.of(StageEnded)] == ["finetune"]
    assert again.recorder.of(StageStarted) == []


def test_a_damaged_checkpoint_is_passed_over_with_a_sentence(tmp_path: Path) -> None:
    whole = run_alone(launch(_recipe("rbm"), tmp_path))
    newest, *older = whole.recorder.refs
    (tmp_path / newest.path / "state.json").write_text("{}")
    again = run_alone(launch(_recipe("rbm"), tmp_path, 2, [newest, *older]))
    notices = [fact for fact in again.recorder.of(Noticed) if fact.code == "checkpoint_fallback"]
    assert len(notices) == 1
    assert newest.path in notices[0].sentence
    assert notices[0].sentence.endswith(f"Goes back to {older[0].path}.")
    assert again.outcome.metrics == whole.outcome.metrics


def test_a_job_whose_checkpoints_are_all_damaged_begins_anew_and_says_so(tmp_path: Path) -> None:
    whole = run_alone(launch(_recipe("rbm"), tmp_path))
    for ref in whole.recorder.refs:
        (tmp_path / ref.path / "manifest.json").unlink()
    again = run_alone(launch(_recipe("rbm"), tmp_path, 2, whole.recorder.refs))
    notices = [fact for fact in again.recorder.of(Noticed) if fact.code == "checkpoint_fallback"]
    assert len(notices) == len(whole.recorder.refs)
    assert all(notice.sentence.endswith("None before it is whole.") for notice in notices)
    assert again.recorder.steps[0] == 1
    assert again.outcome.metrics == whole.outcome.metrics


@pytest.fixture(scope="module")
def gangs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three ranks: whole runs and stopped ones in one gang, their second attempts in a new one."""
    folder = tmp_path_factory.mktemp("gangs")
    recipes = {
        "denoising_autoencoder": _recipe("denoising_autoencoder"),
        "rbm": _recipe("rbm"),
        "persistent chains": _recipe("persistent chains"),
        "greedy_supervised": _recipe("greedy_supervised", normalization="batch"),
    }
    moments = {"in the second stage": STAGE + 7, "in the fine-tuning": 2 * STAGE + 17}
    cuts = [(method, moment) for method in recipes for moment in moments]
    places = {cut: folder / f"{cut[0]}-{moments[cut[1]]}" for cut in cuts}
    runs = [
        Run(launch(spec, folder / method, world_size=WORLD_SIZE))
        for method, spec in recipes.items()
    ]
    runs += [
        Run(
            launch(recipes[cut[0]], places[cut], world_size=WORLD_SIZE),
            moments[cut[1]],
            stop_rank=1,
        )
        for cut in cuts
    ]
    first = run_gang(runs, folder, WORLD_SIZE, tells_every_step=True)
    wholes = dict(zip(recipes, first, strict=False))
    stopped = dict(zip(cuts, first[len(recipes) :], strict=True))
    second = run_gang(
        [
            Run(launch(recipes[cut[0]], places[cut], 2, stopped[cut].recorder.refs, WORLD_SIZE))
            for cut in cuts
        ],
        folder,
        WORLD_SIZE,
        tells_every_step=True,
    )
    return {
        "folder": folder,
        "places": places,
        "moments": moments,
        "wholes": wholes,
        "stopped": stopped,
        "resumed": dict(zip(cuts, second, strict=True)),
    }


@pytest.mark.parametrize("moment", ["in the second stage", "in the fine-tuning"])
@pytest.mark.parametrize("method", PRETRAINING)
def test_ranks_stop_after_the_same_step_and_go_on_to_the_same_bits(
    method: str, moment: str, gangs: dict[str, Any]
) -> None:
    cut = (method, moment)
    stopped: Attempt = gangs["stopped"][cut]
    # Only rank 1 had the order; the reason reached rank 0 with the step's signals.
    assert stopped.rank_steps == [gangs["moments"][moment]] * WORLD_SIZE
    assert stopped.outcome.stop_reason is StopReason.PREEMPT
    whole, resumed = gangs["wholes"][method], gangs["resumed"][cut]
    _assert_same(whole, gangs["folder"] / method, resumed, gangs["places"][cut])


def test_another_number_of_workers_goes_on_with_the_same_data_and_figures(
    gangs: dict[str, Any],
) -> None:
    cut = ("greedy_supervised", "in the second stage")  # in its first epoch
    refs = gangs["stopped"][cut].recorder.refs
    spec = launch(
        _recipe("greedy_supervised", normalization="batch"), gangs["places"][cut], 3, refs
    )
    alone = run_alone(spec)
    assert alone.outcome.result is Result.SUCCEEDED
    assert alone.recorder.steps[0] == STAGE + 8
    expected: StageEnded = gangs["wholes"]["greedy_supervised"].recorder.of(StageEnded)[1]
    found: StageEnded = alone.recorder.of(StageEnded)[0]
    # Other dropout, but the sum of the epoch's first steps was not lost.
    assert found.loss_first == pytest.approx(expected.loss_first, rel=0.1)


def test_chains_that_were_of_more_workers_begin_anew_and_it_is_told(gangs: dict[str, Any]) -> None:
    cut = ("persistent chains", "in the second stage")
    refs = gangs["stopped"][cut].recorder.refs
    alone = run_alone(launch(_recipe("persistent chains"), gangs["places"][cut], 3, refs))
    assert alone.outcome.result is Result.SUCCEEDED
    told = [fact for fact in alone.recorder.of(Noticed) if fact.code == "chains_begun_anew"]
    assert [fact.sentence for fact in told] == [
        "pretrain-02 goes on with 1 worker instead of 3: its chains begin anew at the data."
    ]
