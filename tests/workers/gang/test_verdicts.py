"""The first cause of a gang's end, and what came of it."""

from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError

from tests.workers.gang.launches import launch
from workers.contract.launch import RankPlacement
from workers.contract.outcome import FailureKind, Outcome, Result
from workers.gang import verdicts
from workers.gang.rank import RankEnd

WELL = RankEnd(outcome=Outcome(result=Result.SUCCEEDED)).model_dump_json()
PEER = RankEnd(
    failure=FailureKind.USER_ERROR,
    exception="RuntimeError",
    message="[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.7]:4711",
).model_dump_json()
OWN = RankEnd(
    failure=FailureKind.USER_ERROR,
    exception="ValueError",
    message="no such column: 7",
    last_lines=("Traceback ...", "ValueError: no such column: 7"),
).model_dump_json()


@pytest.fixture(autouse=True)
def nodes_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "lost_nodes", lambda _: frozenset())


def test_all_well_is_what_rank_0_says(tmp_path: Path) -> None:
    outcome = verdicts.of_ends(launch(tmp_path), {0: WELL, 1: WELL})
    assert outcome is not None
    assert outcome.result is Result.SUCCEEDED


def test_while_one_still_runs_there_is_no_verdict(tmp_path: Path) -> None:
    assert verdicts.of_ends(launch(tmp_path), {0: WELL}) is None


def test_a_death_is_the_cause_of_errors(tmp_path: Path) -> None:
    outcome = verdicts.of_ends(launch(tmp_path), {0: PEER, 1: ActorDiedError()})
    assert outcome is not None
    assert outcome.failure is FailureKind.WORKER_DIED
    assert outcome.message.startswith("rank 1 died: ")
    assert outcome.cause is not None
    assert outcome.cause.rank == 1
    assert len(outcome.cause.collateral) == 1


def test_a_death_with_its_node_is_a_lost_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "lost_nodes", lambda _: frozenset({"n1"}))
    outcome = verdicts.of_ends(launch(tmp_path), {1: ActorDiedError()})
    assert outcome is not None
    assert outcome.failure is FailureKind.NODE_LOST


def test_a_death_for_want_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    on_one_node = tuple(RankPlacement(rank=r, node_id="n0", cpus=1, gpus=0) for r in range(2))
    near, far = launch(tmp_path, ranks=on_one_node), launch(tmp_path)
    died = {1: ActorDiedError()}
    outcome = verdicts.of_ends(near, died, was_oom_kill=True)
    assert outcome is not None
    assert outcome.failure is FailureKind.OUT_OF_MEMORY
    assert outcome.message.startswith(
        "rank 1 died: the kernel killed it for want of memory; lower training.batch_size"
    )
    for spec, was_oom_kill in ((near, False), (far, True)):  # of another node nothing is known
        outcome = verdicts.of_ends(spec, died, was_oom_kill)
        assert outcome is not None
        assert outcome.failure is FailureKind.WORKER_DIED


def test_an_error_of_its_own_goes_before_a_lost_peer(tmp_path: Path) -> None:
    outcome = verdicts.of_ends(launch(tmp_path), {0: PEER, 1: OWN})
    assert outcome is not None
    assert (outcome.failure, outcome.message) == (FailureKind.USER_ERROR, "no such column: 7")
    assert outcome.cause is not None
    assert outcome.cause.last_lines[-1] == "ValueError: no such column: 7"


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (PEER, FailureKind.WORKER_DIED),
        (OWN.replace("ValueError", "DistNetworkError"), FailureKind.WORKER_DIED),
        (OWN.replace("ValueError", "DistanceError"), FailureKind.USER_ERROR),
    ],
)
def test_lost_peers_alone_are_no_error_of_the_user(
    tmp_path: Path, end: str, kind: FailureKind
) -> None:
    outcome = verdicts.of_ends(launch(tmp_path), {0: end})
    assert outcome is not None
    assert outcome.failure is kind


def test_errors_that_differ_in_numbers_only_are_one_line(tmp_path: Path) -> None:
    ends = {rank: PEER.replace("4711", str(rank)) for rank in range(1, 64)}
    outcome = verdicts.of_ends(launch(tmp_path), {0: OWN, **ends})
    assert outcome is not None
    assert outcome.cause is not None
    (line,) = outcome.cause.collateral
    assert line.startswith("63 x RuntimeError")
