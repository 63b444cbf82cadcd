"""Facts are numbered and on storage before they are sent; a successor finds what was not heard."""

from pathlib import Path

from tests.workers.gang.launches import JOB, launch, progress, written, wrote_down
from workers.contract.paths import fact_file
from workers.contract.reports import Fact, GangStarted, Noticed, StageEnded, StageKind
from workers.gang.fact_log import FactLog, inherited, with_inherited

UP = GangStarted(world_size=2)
NOTICED = Noticed(code="x", sentence="X.")
ENDED = StageEnded(
    index=0,
    name="finetune",
    kind=StageKind.FINETUNE,
    epochs=1,
    steps=10,
    loss_first=2.0,
    loss_last=1.0,
    seconds=1.0,
)


def test_a_fact_is_on_storage_when_it_is_sent(tmp_path: Path) -> None:
    sent: list[tuple[Fact, bool]] = []

    def send(fact: Fact) -> None:
        sent.append((fact, (tmp_path / fact_file(JOB, 1, fact.seq)).exists()))

    log = FactLog(launch(tmp_path), send)
    for body in (NOTICED, progress(1), NOTICED):
        log.add(body)
    assert [fact.seq for fact, _ in sent] == [1, 2, 3]
    assert [is_there for _, is_there in sent] == [True, False, True]  # progress may be dropped


def test_a_storage_that_refuses_does_not_stop_the_telling(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file where a folder should be")
    sent: list[Fact] = []
    FactLog(launch(tmp_path), sent.append).add(NOTICED)
    assert [fact.seq for fact in sent] == [1]


def test_the_predecessors_unheard_checkpoints_are_inherited(tmp_path: Path) -> None:
    heard, unheard = written(tmp_path, 10, 1), written(tmp_path, 20, 1)
    wrote_down(tmp_path, 1, heard, unheard, ENDED)
    next_one = launch(tmp_path, attempt=2, resume=(heard.ref,))
    found = inherited(next_one)
    assert found == [unheard, ENDED]
    assert with_inherited(next_one, found).resume == (unheard.ref, heard.ref)


def test_a_damaged_one_is_not_inherited(tmp_path: Path) -> None:
    damaged = written(tmp_path, 20, 1)
    (tmp_path / damaged.ref.path / "data").write_bytes(b"weights of step 21")
    wrote_down(tmp_path, 1, damaged, ENDED)
    assert inherited(launch(tmp_path, attempt=2)) == []


def test_a_first_attempt_inherits_nothing(tmp_path: Path) -> None:
    assert inherited(launch(tmp_path)) == []


def test_an_attempt_that_never_came_up_hides_nothing(tmp_path: Path) -> None:
    first, second = written(tmp_path, 10, 1), written(tmp_path, 20, 1)
    wrote_down(tmp_path, 1, UP, first, second)
    wrote_down(tmp_path, 2, first)  # it died while it told what it had inherited
    third = launch(tmp_path, attempt=4)
    assert inherited(third) == [first, second]


def test_what_lies_before_a_gang_that_was_up_is_told_already(tmp_path: Path) -> None:
    old, new = written(tmp_path, 10, 1), written(tmp_path, 20, 2)
    wrote_down(tmp_path, 1, UP, old)
    wrote_down(tmp_path, 2, UP, new)
    assert inherited(launch(tmp_path, attempt=3)) == [new]
