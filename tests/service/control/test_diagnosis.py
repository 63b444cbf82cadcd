"""What a job's curves and events say of why it does not learn."""

from datetime import UTC, datetime
from typing import Any

import pytest

from service.control.diagnosis import LINES_MIN, Diagnosis, diagnose
from service.domain.records import Event, Measurement
from tests.service.control.house import House, failed
from workers.contract.outcome import FailureKind
from workers.contract.reports import Noticed, Progress, StageKind, StageStarted
from workers.contract.wire import JobId

JOB = JobId("019a0000-0000-7000-8000-000000000001")
AT = datetime(2026, 11, 1, tzinfo=UTC)


def line(step: int, loss: float | None, **changes: Any) -> Measurement:
    words: dict[str, Any] = {
        "stage_index": 0,
        "epoch": 0,
        "stage_step": step,
        "step": step,
        "loss": loss,
        "lr": 0.1,
        "samples": step,
        "samples_per_second": 1.0,
        "step_seconds": 1.0,
        "data_wait_seconds": 0.0,
        "eta_seconds": None,
    }
    return Measurement(step, JOB, 1, AT, Progress(**{**words, **changes}))


def told(code: str, sentence: str) -> Event:
    return Event(1, JOB, 1, AT, "gang", "notice", None, None, code, sentence)


def codes(house: House, curve: list[Measurement], *events: Event) -> list[str]:
    return [verdict.code for verdict in found(house, curve, *events).verdicts]


def found(house: House, curve: list[Measurement], *events: Event) -> Diagnosis:
    first = curve[0] if curve else None
    return diagnose(house.submit(), [], finetune=0, first=first, curve=curve, events=events)


def test_a_loss_that_stands_where_it_began_is_a_plateau(house: House) -> None:
    curve = [line(step, 2.31 + 0.001 * (step % 2)) for step in range(1, 40)]
    [verdict] = found(house, curve).verdicts
    assert verdict.code == "plateau"
    assert "began at 2.311 and stands at 2.311" in verdict.sentence


@pytest.mark.parametrize(
    "losses",
    [
        [2.3 / step for step in range(1, 40)],  # it falls
        [2.3] * 5 + [0.1] * 40,  # it has learned what there is
        [2.3 + (-1) ** step for step in range(40)],  # it jumps about, which is another thing
        [2.3] * (LINES_MIN - 1),  # too early to say
        [float("nan")] * 40,
        [None] * 40,
    ],
)
def test_every_other_loss_is_none(house: House, losses: list[float | None]) -> None:
    assert codes(house, [line(n, loss) for n, loss in enumerate(losses, 1)]) == []


def test_the_loss_of_a_pretraining_stage_is_not_judged(house: House) -> None:
    curve = [line(step, 2.3, stage_index=7) for step in range(1, 40)]
    assert codes(house, curve) == []


def test_of_a_long_job_the_beginning_and_the_last_words_count(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A net that learned long ago and stands still now is no plateau."""
    monkeypatch.setattr("service.control.jobs.DIAGNOSED_LINES", 20)
    monkeypatch.setattr("service.control.jobs.DIAGNOSED_EVENTS", 3)
    job = house.running()
    words: dict[str, Any] = {"count": 2, "epochs": 1, "steps_per_epoch": 100}
    pretraining = StageStarted(index=0, name="pretrain-01", kind=StageKind.RBM, **words)
    finetune = StageStarted(index=1, name="finetune", kind=StageKind.FINETUNE, **words)
    others = [Noticed(code="hello", sentence="Hello.") for _ in range(5)]
    losses = [2.3, 1.0, *[0.1] * 30]
    house.report(
        job,
        pretraining,
        line(1, 0.1).progress,
        finetune,
        *[line(n, loss, stage_index=1).progress for n, loss in enumerate(losses, 2)],
        *others,
        Noticed(code="dead_units", sentence="Many."),
    )
    assert [one.code for one in house.jobs.diagnose(job.id).verdicts] == ["dead_units"]
    stuck = house.running()
    lines = [line(n, 2.3, stage_index=0).progress for n in range(1, 40)]
    alone = StageStarted(index=0, name="finetune", kind=StageKind.FINETUNE, **words)
    house.report(stuck, alone, *lines)
    assert [one.code for one in house.jobs.diagnose(stuck.id).verdicts] == ["plateau"]


def test_steps_that_wait_for_data_are_starved(house: House) -> None:
    curve = [line(step, 1 / step, data_wait_seconds=0.5) for step in range(1, 40)]
    [verdict] = found(house, curve).verdicts
    assert verdict.code == "starved_by_data"
    assert "50% of each step" in verdict.sentence


def test_what_the_gang_said_of_its_layers_is_repeated_as_it_said_it_last(house: House) -> None:
    events = [told("vanishing_gradient", "first"), told("other", "no"), told("dead_units", "x")]
    again = told("vanishing_gradient", "last")
    verdicts = found(house, [], *events, again).verdicts
    assert [(one.code, one.sentence) for one in verdicts] == [
        ("vanishing_gradient", "last"),
        ("dead_units", "x"),
    ]


def test_layers_are_shown_as_at_the_last_look_from_the_input_up(house: House) -> None:
    first = {"grad_norm.stem": 9.0}
    last = {"grad_norm.stem": 1.0, "dead.stem": 0.25, "grad_norm.block-1": 2.0, "grad_norm": 3.0}
    curve = [line(1, 1.0, metrics=first), line(2, 0.5, metrics=last), line(3, 0.4)]
    seen = found(house, curve)
    assert seen.looked_at_step == 2
    assert [(layer.name, layer.grad_norm, layer.dead) for layer in seen.layers] == [
        ("stem", 1.0, 0.25),
        ("block-1", 2.0, None),
    ]


def test_attempts_that_failed_are_counted_by_kind(house: House) -> None:
    job = house.running()
    house.report(job, failed(FailureKind.WORKER_DIED, "rank 1 is gone"))
    [verdict] = house.jobs.diagnose(job.id).verdicts
    assert verdict.code == "attempts_failed"
    assert "1 of 1 attempts failed (worker_died 1 x)" in verdict.sentence
