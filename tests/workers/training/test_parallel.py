"""However the net lies over the ranks and in their memory, it learns the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from tests.workers.training.attempts import (
    Attempt,
    Run,
    launch,
    recipe,
    run_alone,
    run_gang,
    saved_tensors,
)
from workers.contract.outcome import Result
from workers.contract.recipe import Recipe
from workers.contract.reports import Evaluated

DATA = {"source": "digits", "test_fraction": 0.2, "validation_fraction": 0.1}
MODEL = {"kind": "mlp", "hidden": [13, 9, 7], "activation": "tanh", "init": "xavier"}
STEPS = 24  # two epochs of 1,293 samples in batches of 101, which do not divide by 2
STOP_AT = 17


def _recipe(**training: Any) -> Recipe:
    plain = {"epochs": 2, "batch_size": 101, "optimizer": {"name": "adam", "lr": 0.01}}
    return recipe(
        data=DATA,
        model=MODEL,
        training={**plain, "clip_norm": 1.0, **training},
        checkpoint={"every_steps": 7},
    )


def _figures(attempt: Attempt) -> dict[tuple[str, int], float]:
    return {(one.split, one.step): one.metrics["loss"] for one in attempt.recorder.of(Evaluated)}


def _net(storage: Path, attempt: Attempt) -> dict[str, torch.Tensor]:
    assert attempt.outcome.result is Result.SUCCEEDED
    assert attempt.recorder.refs[0].step == STEPS
    return saved_tensors(storage, attempt.recorder.refs[0])


WAYS: dict[str, dict[str, Any]] = {
    "micro-batches": {"accumulate": 3},
    "shards": {"parallel": "fsdp"},
    "shards, micro-batches, nothing kept for the backward pass": {
        "parallel": "fsdp",
        "accumulate": 3,
        "activation_checkpointing": True,
    },
}


def test_two_workers_learn_the_same_in_every_way(tmp_path: Path) -> None:
    folders = {way: tmp_path / str(k) for k, way in enumerate(["plain", *WAYS])}
    specs = {way: _recipe(**options) for way, options in {"plain": {}, **WAYS}.items()}
    runs = [Run(launch(specs[way], folders[way], world_size=2)) for way in folders]
    attempts = dict(zip(folders, run_gang(runs, tmp_path), strict=True))
    expected = _net(folders["plain"], attempts["plain"])
    assert expected.keys() >= {"net.head.weight", "optimizer.count.net.head.weight"}
    for way in WAYS:
        found = _net(folders[way], attempts[way])
        assert found.keys() == expected.keys()
        for name in expected:
            if not name.startswith("rank-"):
                torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)
        assert _figures(attempts[way]) == pytest.approx(_figures(attempts["plain"]), rel=1e-4)


def test_shards_go_on_to_the_same_bits_and_fit_any_number_of_workers(tmp_path: Path) -> None:
    spec = _recipe(parallel="fsdp", ema=0.9, on_non_finite="skip")
    whole_at, stopped_at = tmp_path / "whole", tmp_path / "stopped"
    whole, stopped = run_gang(
        [
            Run(launch(spec, whole_at, world_size=2)),
            Run(launch(spec, stopped_at, world_size=2), STOP_AT, stop_rank=1),
        ],
        tmp_path,
    )
    assert stopped.recorder.steps[-1] == STOP_AT
    refs = stopped.recorder.refs
    saved = FileSystemReader(str(stopped_at / refs[0].path)).read_metadata().state_dict_metadata
    for name in ("net.head.weight", "optimizer.first_moment.net.layers.hidden-02.linear.weight"):
        entry = saved[name]
        assert isinstance(entry, TensorStorageMetadata)
        assert len(entry.chunks) == 2  # each worker wrote its shard
    (resumed,) = run_gang([Run(launch(spec, stopped_at, 2, refs, world_size=2))], tmp_path)
    expected, found = _net(whole_at, whole), _net(stopped_at, resumed)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert _figures(resumed).items() <= _figures(whole).items()

    alone = run_alone(launch(spec, stopped_at, 3, refs))
    assert _figures(alone) == pytest.approx(_figures(resumed), rel=1e-4)


def test_running_statistics_move_once_a_step_where_layers_are_computed_twice(
    tmp_path: Path,
) -> None:
    nets = []
    for recomputes in (False, True):
        spec = recipe(
            data=DATA,
            model={**MODEL, "normalization": "batch", "dropout": 0.2},
            training={"epochs": 1, "activation_checkpointing": recomputes},
        )
        folder = tmp_path / str(recomputes)
        attempt = run_alone(launch(spec, folder))
        nets.append(saved_tensors(folder, attempt.recorder.refs[0]))
    assert any(name.endswith("running_mean") for name in nets[0])
    assert [name for name in nets[0] if not torch.equal(nets[0][name], nets[1][name])] == []
