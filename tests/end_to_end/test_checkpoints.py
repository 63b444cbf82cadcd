"""A job's net outlives it: it is pinned, taken out of Strata, and what another job begins with."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.home import Home, write_job

SHORT = {
    "resources": {"workers": 1},
    "model": {"kind": "mlp", "hidden": [32]},
    "pretraining": None,
    "training": {"epochs": 4, "batch_size": 100},
}


@pytest.fixture(scope="module")
def first(home: Home, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job that ended, by its id."""
    job = home.submit(write_job(tmp_path_factory.mktemp("first"), "first", **SHORT))
    assert home.wait_final(job)["job"]["state"] == "succeeded"
    return job


def test_a_net_is_taken_out_and_gives_the_same_answers(
    home: Home, first: str, tmp_path: Path
) -> None:
    weights, program = tmp_path / "net.safetensors", tmp_path / "net.pt2"
    told = home.call("checkpoints", "export", first, str(weights), "-o", "json").stdout
    assert json.loads(told)["file"] == str(weights)
    home.call("checkpoints", "export", first, str(program), "--format", "torch_export")
    named = load_file(weights)
    net = torch.export.load(program).module()
    x = torch.rand(5, 64)
    assert net(x).shape == (5, 10)
    kept = dict(net.named_parameters())
    assert {tuple(tensor.shape) for tensor in kept.values()} <= {
        tuple(tensor.shape) for tensor in named.values()
    }
    assert all(any(torch.equal(one, other) for other in named.values()) for one in kept.values())


def test_a_pinned_checkpoint_is_what_another_job_begins_with(
    home: Home, first: str, tmp_path: Path
) -> None:
    assert home.json("checkpoints", "pin", first)["pinned"]
    second = home.submit(write_job(tmp_path, "second", **SHORT, init_from=first))
    assert home.wait_final(second)["job"]["state"] == "succeeded"
    told = [one for one in home.json("events", second)["events"] if "Begins with" in one["message"]]
    assert len(told) == 1
    (stage,) = home.status(second)["stages"]
    (before,) = home.status(first)["stages"]
    assert stage["loss_first"] < before["loss_first"] / 2  # it knows the digits already
