"""What a job's lines come to: totals over attempts, and figures that not every line brings."""

import pytest

from service.domain.told import Told, told_after
from tests.contracts.lives import progress


def told(*lines: tuple[int, int, float]) -> Told:
    """After lines of (attempt, step, seconds that each step waited)."""
    before: Told | None = None
    for attempt, step, wait in lines:
        line = progress(step).model_copy(update={"data_wait_seconds": wait})
        before = told_after(before, attempt, line)
    assert before is not None
    return before


@pytest.mark.parametrize(
    ("lines", "waited"),
    [
        ([(1, 1, 0.5)], 0.5),
        ([(1, 1, 0.5), (1, 11, 0.25)], 3.0),
        ([(1, 1, 0.5), (1, 11, 0.25), (2, 6, 1.0)], 4.0),  # the next attempt tells its first step
        ([(1, 1, 0.5), (1, 11, 0.25), (1, 6, 1.0), (1, 8, 1.0)], 6.0),  # a rollback
    ],
)
def test_what_steps_waited_adds_up_over_attempts(
    lines: list[tuple[int, int, float]], waited: float
) -> None:
    assert told(*lines).data_wait_seconds == waited


def test_a_figure_stays_until_its_stage_is_over() -> None:
    looked = told_after(None, 1, progress(1, grad_norm=2.0))
    then = told_after(looked, 1, progress(2, nonfinite_steps=1.0))
    assert then.figures == {"grad_norm": 2.0, "nonfinite_steps": 1.0}
    assert (looked.num_nonfinite_steps, then.num_nonfinite_steps) == (0, 1)
    assert then.progress.step == 2
    next_stage = progress(3).model_copy(update={"stage_index": 1})
    assert told_after(then, 1, next_stage).figures == {}
