"""A curve that stands still, or waits for data, is told while it grows; a slow beginning is not."""

from collections.abc import Sequence

import pytest

from tests.workers.gang.launches import progress
from workers.contract.reports import Progress
from workers.telemetry.curve_watch import LINES_MIN, POINTS_MAX, CurveWatch


def line(step: int, loss: float | None, wait_seconds: float = 0.0) -> Progress:
    return progress(step).model_copy(update={"loss": loss, "data_wait_seconds": wait_seconds})


def said(watch: CurveWatch, losses: Sequence[float | None], wait_seconds: float = 0.0) -> list[str]:
    """The codes of what is said at the last of these lines."""
    found = [watch.look(line(step, loss, wait_seconds)) for step, loss in enumerate(losses)][-1]
    return [noticed.code for noticed in found]


def test_a_loss_that_does_not_move_for_long_is_a_plateau() -> None:
    watch = CurveWatch(has_plateaus=True)
    assert said(watch, [2.3] * (LINES_MIN - 1)) == []
    assert said(watch, [2.3]) == ["plateau"]


def test_a_loss_that_falls_or_has_fallen_is_none() -> None:
    falls = [2.3 - k / LINES_MIN for k in range(LINES_MIN)]
    assert said(CurveWatch(has_plateaus=True), falls) == []
    assert said(CurveWatch(has_plateaus=True), [2.3, *[0.1] * LINES_MIN]) == []


def test_the_loss_of_pretraining_says_nothing_of_that() -> None:
    assert said(CurveWatch(has_plateaus=False), [2.3] * LINES_MIN) == []


@pytest.mark.parametrize(("wait_seconds", "codes"), [(0.2, []), (0.4, ["starved_by_data"])])
def test_steps_of_a_second_that_wait_for_data_are_starved(
    wait_seconds: float, codes: list[str]
) -> None:
    assert said(CurveWatch(has_plateaus=False), [2.3] * LINES_MIN, wait_seconds) == codes


def test_of_a_long_curve_its_beginning_is_kept_and_what_is_no_number_passed_over() -> None:
    watch = CurveWatch(has_plateaus=True)
    assert said(watch, [9.0, None, *[2.3] * (5 * POINTS_MAX)]) == []  # it has come down from 9
    assert watch.num_points <= POINTS_MAX
    assert said(CurveWatch(has_plateaus=True), [None] * LINES_MIN) == []
