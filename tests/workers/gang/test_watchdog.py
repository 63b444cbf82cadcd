"""A gang hangs when nobody takes a step for too long, and only while it trains."""

import pytest

from workers.contract.launch import Deadlines
from workers.gang.watchdog import SILENT, Watchdog, lagging

TRAIN = ["train", "train"]


@pytest.fixture
def dog() -> Watchdog:
    return Watchdog(Deadlines(hang_seconds_min=30.0, hang_step_factor=5.0))


def test_steps_that_move_are_no_hang(dog: Watchdog) -> None:
    assert all(dog.look([n, n], TRAIN, 20.0 * n) is None for n in range(50))


def test_a_hang_names_the_rank_that_lags(dog: Watchdog) -> None:
    dog.look([7, 6], TRAIN, 0.0)
    assert dog.look([7, 6], TRAIN, 30.0) is None
    hang = dog.look([7, 6], TRAIN, 30.1)
    assert hang is not None
    assert hang.rank == 1
    assert "rank 1 lags behind" in hang.sentence


def test_slow_steps_have_a_longer_limit(dog: Watchdog) -> None:
    for n in range(5):
        dog.look([n, n], TRAIN, 20.0 * n)
    assert dog.look([4, 4], TRAIN, 80.0 + 99.0) is None
    hang = dog.look([4, 4], TRAIN, 80.0 + 101.0)
    assert hang is not None
    assert hang.limit_seconds == 100.0


@pytest.mark.parametrize("phase", ["evaluate", "checkpoint", "setup"])
def test_other_phases_rest_the_clock(dog: Watchdog, phase: str) -> None:
    dog.look([7, 7], TRAIN, 0.0)
    assert dog.look([7, 7], ["train", phase], 1000.0) is None
    assert dog.look([7, 7], TRAIN, 1001.0) is None
    assert dog.look([7, 7], TRAIN, 1032.0) is not None


def test_the_first_steps_of_a_stage_may_take_long_and_those_of_the_last_are_forgotten(
    dog: Watchdog,
) -> None:
    for n in range(9):
        dog.look([n, n], TRAIN, 20.0 * n)  # slow ones, for which the limit was 100 s
    assert dog.look([8, 8], ["begin", "train"], 200.0) is None
    assert dog.look([8, 8], ["begin", "train"], 800.0) is None
    hang = dog.look([8, 8], ["begin", "train"], 801.0)
    assert hang is not None
    assert "limit 600 s of 'begin'" in hang.sentence
    assert dog.look([9, 9], TRAIN, 900.0) is None
    hang = dog.look([9, 9], TRAIN, 931.0)
    assert hang is not None
    assert hang.limit_seconds == 30.0


@pytest.mark.parametrize("phase", ["evaluate", "checkpoint", "setup"])
def test_a_phase_has_a_clock_of_its_own(phase: str) -> None:
    dog = Watchdog(Deadlines(phase_seconds=600.0))
    assert dog.look([7, 7], ["train", phase], 0.0) is None
    assert dog.look([7, 7], ["train", phase], 600.0) is None
    hang = dog.look([7, 7], ["train", phase], 601.0)
    assert hang is not None
    assert hang.rank == 1
    assert f"limit 600 s of '{phase}'" in hang.sentence


def test_the_clock_of_a_phase_begins_anew_with_every_step_and_phase(dog: Watchdog) -> None:
    for number in range(5):
        assert dog.look([number] * 2, ["checkpoint"] * 2, 1500.0 * number) is None
        assert dog.look([number] * 2, ["evaluate"] * 2, 1500.0 * number + 1400) is None
    hang = dog.look([4, 4], ["evaluate"] * 2, 9300.0)
    assert hang is not None
    assert hang.rank is None


WAITS = [
    "Thread 0x1 (most recent call first):",
    '  File "/x/threading.py", line 324 in wait',
    '  File "/x/workers/gang/orphan.py", line 33 in _run',
    "",
    "Thread 0x2 (most recent call first):",
    '  File "/x/torch/distributed/distributed_c10d.py", line 3010 in all_reduce',
    '  File "/x/workers/gang/rank.py", line 140 in _train',
]
WORKS = [*WAITS[:5], '  File "/x/data.py", line 7 in rows', WAITS[6]]


@pytest.mark.parametrize(
    ("steps", "stacks", "rank"),
    [
        ([7, 7, 7], [WAITS, WORKS, WAITS], 1),
        ([7, 7, 7], [WAITS, WAITS, [SILENT]], 2),
        ([7, 7, 7], [WAITS, WORKS, [SILENT]], 2),
        ([7, 7, 7], [WAITS, WAITS, WAITS], None),
        ([7, 7, 7], [WORKS, WORKS, WORKS], None),
        ([8, 7, 7], [WORKS, WAITS, WORKS], 2),
        ([8, 7, 8], [WORKS, WAITS, WAITS], 1),
    ],
)
def test_who_lags_is_seen_by_where_it_is(
    steps: list[int], stacks: list[list[str]], rank: int | None
) -> None:
    assert lagging(steps, dict(enumerate(stacks))) == rank


def test_a_gang_in_which_all_wait_names_nobody(dog: Watchdog) -> None:
    dog.look([7, 7], TRAIN, 0.0)
    hang = dog.look([7, 7], TRAIN, 31.0)
    assert hang is not None
    assert hang.rank is None
    assert "wait for each other" in hang.sentence
