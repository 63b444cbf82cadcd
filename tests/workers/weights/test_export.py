"""An exported net is the trained one, in a process that has never heard of Strata."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.training.attempts import launch, recipe, run_alone
from workers.checkpoint.weights import net_weights
from workers.contract.outcome import StorageFailure
from workers.contract.reports import CheckpointRef
from workers.models.catalog import build_net
from workers.models.layered import seeded
from workers.weights.export import export

MODEL: dict[str, Any] = {"kind": "mlp", "hidden": [12, 9], "activation": "tanh"}
BATCH_NORM = {**MODEL, "normalization": "batch", "dropout": 0.1}

LOAD_WEIGHTS = """
from safetensors.torch import load_file
found = load_file(sys.argv[1])
torch.save({name: tensor for name, tensor in found.items()}, sys.argv[3])
"""
LOAD_PROGRAM = """
net = torch.export.load(sys.argv[1]).module()
x = torch.load(sys.argv[2])
torch.save({"logits": net(x), "of one": net(x[:1])}, sys.argv[3])
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, CheckpointRef]:
    storage = tmp_path_factory.mktemp("storage")
    spec = recipe(model=BATCH_NORM, training={"epochs": 1, "batch_size": 101})
    return str(storage), run_alone(launch(spec, storage)).recorder.refs[0]


def _in_a_fresh_process(
    program: str, exported: Path, folder: Path, x: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Run a program that may import torch and the like, but nothing of ours."""
    torch.save(x, folder / "x.pt")
    guard = "assert not [name for name in sys.modules if name.split('.')[0] == 'workers']"
    command = [sys.executable, "-I", "-c", f"import sys, torch\n{program}\n{guard}"]
    files = [str(exported), str(folder / "x.pt"), str(folder / "found.pt")]
    subprocess.run([*command, *files], cwd=folder, check=True, timeout=120)
    found: dict[str, torch.Tensor] = torch.load(folder / "found.pt")
    return found


def test_safetensors_give_the_weights_by_name(
    trained: tuple[str, CheckpointRef], tmp_path: Path
) -> None:
    storage, ref = trained
    out = tmp_path / "net.safetensors"
    export(storage, ref.model_dump_json(), "safetensors", out)
    found = _in_a_fresh_process(LOAD_WEIGHTS, out, tmp_path, torch.zeros(1))
    expected = net_weights(storage, ref)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "found.pt",
        "net.safetensors",
        "x.pt",
    ]


def test_an_exported_program_gives_the_logits_of_the_net_for_any_batch(
    trained: tuple[str, CheckpointRef], tmp_path: Path
) -> None:
    storage, ref = trained
    out = tmp_path / "net.pt2"
    export(storage, ref.model_dump_json(), "torch_export", out)
    x = torch.rand(5, 64, generator=seeded(1))
    found = _in_a_fresh_process(LOAD_PROGRAM, out, tmp_path, x)
    net = build_net(recipe(model=BATCH_NORM).model, (64,), 10, seeded(0))
    net.load_state_dict(net_weights(storage, ref))
    net.eval()
    torch.testing.assert_close(found["logits"], net(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["of one"], net(x[:1]), rtol=1e-5, atol=1e-6)


def test_a_damaged_checkpoint_is_not_exported(tmp_path: Path) -> None:
    spec = recipe(model=MODEL, training={"epochs": 1, "batch_size": 101})
    ref = run_alone(launch(spec, tmp_path)).recorder.refs[0]
    (tmp_path / ref.path / "state.json").write_text("{}")
    with pytest.raises(StorageFailure, match="damaged"):
        export(str(tmp_path), ref.model_dump_json(), "safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()
