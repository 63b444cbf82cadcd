"""The retry rules: a budget for each kind, made whole by progress, and a person after too many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.retry import (
    BACKED_OFF,
    BACKOFF_SECONDS_MAX,
    BUDGET,
    FREE,
    FREE_MAX,
    POISON_DEATHS,
    Again,
    AttemptEnd,
    GiveUp,
    Hold,
    decide,
)
from workers.contract.outcome import FailureKind

LONG = 3600.0


def end(failure: FailureKind, *, lasted: float = LONG, progress: bool = False) -> AttemptEnd:
    return AttemptEnd(failure, lasted, progress)


@pytest.mark.parametrize("kind", FailureKind)
def test_every_kind_is_tried_as_often_as_its_budget_says_and_no_more(kind: FailureKind) -> None:
    budget = BUDGET[kind]
    verdicts = [decide([end(kind)] * count, 0, 0.5) for count in range(1, budget + 2)]
    assert all(isinstance(verdict, Again) for verdict in verdicts[:-1])
    assert isinstance(verdicts[-1], Hold if kind in FREE else GiveUp)


def test_the_budgets_are_those_that_the_manual_names() -> None:
    named = {
        FailureKind.WORKER_DIED: 3,
        FailureKind.START_TIMEOUT: 3,
        FailureKind.HANG: 3,
        FailureKind.STORAGE: 5,
        FailureKind.CONFIG: 0,
        FailureKind.USER_ERROR: 0,
        FailureKind.OUT_OF_MEMORY: 0,
        FailureKind.LOST: FREE_MAX,
    }
    assert {kind: BUDGET[kind] for kind in named} == named


def test_an_error_in_the_users_code_is_tried_again_as_often_as_the_spec_says() -> None:
    history = [end(FailureKind.USER_ERROR)]
    assert isinstance(decide(history, 0, 0.5), GiveUp)
    assert isinstance(decide(history * 2, 2, 0.5), Again)
    assert isinstance(decide(history * 3, 2, 0.5), GiveUp)


def test_progress_makes_the_budget_whole_again() -> None:
    died = end(FailureKind.WORKER_DIED)
    assert isinstance(decide([died] * 4, 0, 0.5), GiveUp)
    wrote = end(FailureKind.WORKER_DIED, progress=True)
    assert isinstance(decide([died, died, wrote, died, died], 0, 0.5), Again)


def test_failures_of_other_kinds_do_not_use_up_a_budget() -> None:
    history = [end(FailureKind.HANG)] * 3 + [end(FailureKind.WORKER_DIED)]
    assert isinstance(decide(history, 0, 0.5), Again)


def test_the_first_retry_of_a_dead_worker_is_at_once_and_the_second_waits() -> None:
    died = end(FailureKind.WORKER_DIED)
    first, second = decide([died], 0, 0.9), decide([died] * 2, 0, 0.9)
    assert isinstance(first, Again)
    assert first.delay_seconds == 0.0
    assert isinstance(second, Again)
    assert second.delay_seconds > 0.0


def test_five_quick_deaths_without_a_checkpoint_are_poison() -> None:
    kinds = [FailureKind.WORKER_DIED, FailureKind.HANG] * 3
    quick = [end(kind, lasted=5.0) for kind in kinds[:POISON_DEATHS]]
    verdict = decide(quick, 0, 0.5)
    assert isinstance(verdict, Hold)
    assert verdict.failure is FailureKind.POISON


def test_quick_losses_of_nodes_are_no_poison() -> None:
    lost = [end(FailureKind.NODE_LOST, lasted=5.0)] * POISON_DEATHS
    assert isinstance(decide(lost, 0, 0.5), Again)


@given(
    kind=st.sampled_from(sorted(BACKED_OFF)),
    count=st.integers(1, 100),
    jitter=st.floats(0.0, 1.0, exclude_max=True),
)
def test_a_delay_is_never_negative_nor_beyond_its_limit(
    kind: FailureKind, count: int, jitter: float
) -> None:
    verdict = decide([end(kind)] * count, 100, jitter)
    if isinstance(verdict, Again):
        assert 0.0 <= verdict.delay_seconds <= BACKOFF_SECONDS_MAX
