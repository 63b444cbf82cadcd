"""What a rank keeps for its driver, and what it makes of an exception."""

import importlib
import logging
import os

import pytest

from tests.workers.gang.launches import progress
from workers.contract.outcome import (
    ConfigFailure,
    FailureKind,
    NonFiniteFailure,
    StopReason,
    StorageFailure,
)
from workers.contract.reports import Evaluated, Noticed, StopOrder
from workers.gang import rank
from workers.gang.rank import RankEnd, Told, failure_of

NOTICED = Noticed(code="x", sentence="X.")


class OutOfMemoryError(RuntimeError):
    """Named as torch's is, which needs a GPU to be raised."""


def missing() -> BaseException:
    try:
        importlib.import_module("no_such_package")
    except ImportError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigFailure("x"), FailureKind.CONFIG),
        (StorageFailure("x"), FailureKind.STORAGE),
        (NonFiniteFailure("x"), FailureKind.NON_FINITE),
        (MemoryError("x"), FailureKind.OUT_OF_MEMORY),
        (OutOfMemoryError("x"), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), FailureKind.OUT_OF_MEMORY),
        (missing(), FailureKind.CONFIG),
        (SystemExit(3), FailureKind.USER_ERROR),
        (ValueError("x"), FailureKind.USER_ERROR),
    ],
)
def test_an_exception_has_its_kind(error: BaseException, kind: FailureKind) -> None:
    assert failure_of(error).failure is kind


def test_an_exception_without_words_is_called_by_its_name() -> None:
    assert failure_of(ValueError()).message == "ValueError"


def test_a_name_that_is_no_text_travels_all_the_same() -> None:
    end = failure_of(ValueError(os.fsdecode(b"no such file: \xff.png")))
    assert RankEnd.model_validate_json(end.model_dump_json()).message == "no such file: ?.png"
    assert end.last_lines[-1] == "ValueError: no such file: ?.png"


def test_what_is_told_is_given_once_and_in_order() -> None:
    told = Told()
    told.tell(NOTICED)
    told.tell(progress(1))
    told.advance(7)
    told.phase("train")
    first, second = told.status(None), told.status(None)
    assert first.facts == (NOTICED, progress(1))
    assert (first.step, first.phase) == (7, "train")
    assert second.facts == ()


def test_the_log_has_a_line_for_each_fact_that_a_person_can_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Told()
    with caplog.at_level(logging.INFO, logger=rank.__name__):
        told.tell(NOTICED)
        told.tell(
            Evaluated(stage_index=3, step=90, split="test", metrics={"error": 2.5, "loss": 1 / 3})
        )
    assert caplog.messages == [
        "x: X.",
        "evaluated: stage_index 3, step 90, split test, error 2.5, loss 0.33333",
    ]


def test_an_order_stands() -> None:
    told = Told()
    assert told.stop_order() is None
    order = StopOrder(reason=StopReason.HOLD, grace_seconds=60.0)
    told.status(order)
    told.status(None)
    assert told.stop_order() == order


def test_where_nobody_asks_only_progress_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "TOLD_MAX", 2)
    told = Told()
    for fact in (NOTICED, progress(1), progress(2), NOTICED):
        told.tell(fact)
    assert told.status(None).facts == (NOTICED, progress(1), NOTICED)
