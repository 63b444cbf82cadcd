"""A job that begins from another one's net has its very weights, or says why not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.training.attempts import (
    Attempt,
    Run,
    launch,
    recipe,
    run_alone,
    run_gang,
    saved_tensors,
)
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.contract.reports import CheckpointRef, Evaluated, Noticed
from workers.contract.wire import JobId
from workers.training import ancestor

MODEL: dict[str, Any] = {"kind": "mlp", "hidden": [12, 9], "normalization": "batch"}
BRIEF = {"epochs": 2, "batch_size": 101}
STILL = {"epochs": 1, "batch_size": 101, "optimizer": {"name": "sgd", "lr": 1e-30}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CheckpointRef]:
    storage = tmp_path_factory.mktemp("storage")
    attempt = run_alone(launch(recipe(model=MODEL, training=BRIEF), storage))
    return storage, attempt.recorder.refs[0]


def _run(source: tuple[Path, CheckpointRef], name: str, **parts: Any) -> Run:
    storage, ref = source
    init: dict[str, Any] = {
        "source": "other",
        "path": ref.path,
        "manifest_sha256": ref.manifest_sha256,
    }
    given: dict[str, Any] = {"model": MODEL, "training": STILL, "seed": 5} | parts
    given["init_from"] = init | given.get("init_from", {})
    spec = launch(recipe(**given), storage)
    return Run(spec.model_copy(update={"job_id": JobId(name)}))


def _begun(source: tuple[Path, CheckpointRef], name: str, **parts: Any) -> Attempt:
    return run_alone(_run(source, name, **parts).spec)


def _weights(source: tuple[Path, CheckpointRef], ref: CheckpointRef) -> dict[str, torch.Tensor]:
    found = saved_tensors(source[0], ref)
    return {k: v for k, v in found.items() if k.startswith("net.") and "weight" in k}


def test_it_begins_with_every_weight_by_name(source: tuple[Path, CheckpointRef]) -> None:
    child = _begun(source, "child")
    weights, theirs = _weights(source, source[1]), _weights(source, child.recorder.refs[0])
    assert all(torch.equal(weights[name], theirs[name]) for name in weights)
    (notice,) = [one for one in child.recorder.of(Noticed) if one.code == "initialized_from"]
    assert source[1].path in notice.sentence


def test_two_ranks_begin_with_the_same_weights(
    source: tuple[Path, CheckpointRef], tmp_path: Path
) -> None:
    run = _run(source, "gang")
    ranks = run.spec.ranks
    two = (*ranks, ranks[0].model_copy(update={"rank": 1}))
    (gang,) = run_gang([Run(run.spec.model_copy(update={"ranks": two}))], tmp_path)
    weights, theirs = _weights(source, source[1]), _weights(source, gang.recorder.refs[0])
    assert all(torch.equal(weights[name], theirs[name]) for name in weights)


WIDER = {**MODEL, "hidden": [12, 10]}


def test_another_net_is_refused_unless_a_part_is_enough(
    source: tuple[Path, CheckpointRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigFailure, match="partial: true"):
        _begun(source, "strict", model=WIDER)
    child = _begun(source, "partial", model=WIDER, init_from={"partial": True})
    weights, theirs = _weights(source, source[1]), _weights(source, child.recorder.refs[0])
    fitting = [name for name in weights if weights[name].shape == theirs[name].shape]
    assert 0 < len(fitting) < len(weights)
    assert all(torch.equal(weights[name], theirs[name]) for name in fitting)
    monkeypatch.setattr(ancestor, "net_weights", lambda *_: {"alien": torch.ones(3)})
    with pytest.raises(ConfigFailure, match="0 of"):
        _begun(source, "none", init_from={"partial": True})


def test_a_source_that_was_changed_is_a_storage_failure(
    source: tuple[Path, CheckpointRef],
) -> None:
    with pytest.raises(StorageFailure, match="damaged or gone"):
        _begun(source, "changed", init_from={"manifest_sha256": "0" * 64})


def test_it_begins_there_once_and_then_resumes_by_itself(
    source: tuple[Path, CheckpointRef],
) -> None:
    run = _run(source, "resumed", training=BRIEF)
    whole = run_alone(run.spec)
    cut = run.spec.model_copy(update={"job_id": JobId("cut")})
    stopped = run_alone(cut, stop_at=9)
    again = run_alone(cut.model_copy(update={"attempt": 2, "resume": tuple(stopped.recorder.refs)}))
    assert "initialized_from" not in [one.code for one in again.recorder.of(Noticed)]
    assert again.outcome.metrics == whole.outcome.metrics
    assert len(again.recorder.of(Evaluated)) == 1
