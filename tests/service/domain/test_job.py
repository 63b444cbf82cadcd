"""The two tables of the life cycle: every pair of state and move, and that every state is used."""

from itertools import product

import pytest

from service.domain.job import (
    ATTEMPT_MOVES,
    FINAL_JOB_STATES,
    JOB_MOVES,
    OPEN_ATTEMPT_STATES,
    AttemptMove,
    AttemptState,
    IllegalMove,
    JobMove,
    JobState,
    attempt_after,
    job_after,
)


@pytest.mark.parametrize(("state", "move"), list(product(JobState, JobMove)))
def test_a_job_moves_as_the_table_says_or_not_at_all(state: JobState, move: JobMove) -> None:
    if (state, move) in JOB_MOVES:
        assert job_after(state, move) is JOB_MOVES[state, move]
    else:
        with pytest.raises(IllegalMove, match=f"{state} can't {move}"):
            job_after(state, move)


@pytest.mark.parametrize(("state", "move"), list(product(AttemptState, AttemptMove)))
def test_an_attempt_moves_as_the_table_says_or_not_at_all(
    state: AttemptState, move: AttemptMove
) -> None:
    if (state, move) in ATTEMPT_MOVES:
        assert attempt_after(state, move) is ATTEMPT_MOVES[state, move]
    else:
        with pytest.raises(IllegalMove, match=f"{state} can't {move}"):
            attempt_after(state, move)


def test_every_state_of_a_job_is_reached_from_queued() -> None:
    reached = {JobState.QUEUED}
    for _ in JobState:
        reached |= {goal for (source, _), goal in JOB_MOVES.items() if source in reached}
    assert reached == set(JobState)


def test_every_state_of_an_attempt_is_reached_from_reserved() -> None:
    reached = {AttemptState.RESERVED}
    for _ in AttemptState:
        reached |= {goal for (source, _), goal in ATTEMPT_MOVES.items() if source in reached}
    assert reached == set(AttemptState)


def test_every_move_is_possible_somewhere() -> None:
    assert {move for _, move in JOB_MOVES} == set(JobMove)
    assert {move for _, move in ATTEMPT_MOVES} == set(AttemptMove)


def test_the_final_states_are_the_four_ends_that_people_know() -> None:
    assert {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.TIMED_OUT,
    } == FINAL_JOB_STATES


def test_every_job_that_is_not_final_can_still_end() -> None:
    ends = set(FINAL_JOB_STATES)
    for _ in JobState:
        ends |= {source for (source, _), goal in JOB_MOVES.items() if goal in ends}
    assert ends == set(JobState)


def test_an_attempt_that_is_gone_stays_gone_and_every_other_can_be_proved_gone() -> None:
    sources = {source for source, _ in ATTEMPT_MOVES}
    assert sources == set(AttemptState) - {AttemptState.GONE}
    assert all((state, AttemptMove.BURY) in ATTEMPT_MOVES for state in sources)


def test_every_open_attempt_can_be_given_up_and_then_stands_in_nobodys_way() -> None:
    for state in OPEN_ATTEMPT_STATES:
        assert ATTEMPT_MOVES[state, AttemptMove.LOSE] not in OPEN_ATTEMPT_STATES
