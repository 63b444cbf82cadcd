"""What a stage sees: the codes of the layers below, kept or computed anew, always the same."""

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from workers.contract.model_spec import MlpModel
from workers.data.node_folder import VARIABLE
from workers.data.part import InMemory
from workers.models.layered import seeded
from workers.models.mlp import DenseLayer
from workers.stages import handover, kept_codes
from workers.stages.handover import Cache, Inputs, NotKept

V = 7
MODEL = MlpModel(kind="mlp", hidden=(5, 4), normalization="batch", dropout=0.5)
ROWS = torch.tensor([3, 1, 41])


@pytest.fixture(autouse=True)
def node_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's folder, of this test alone."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def _layers() -> list[DenseLayer]:
    layers = [DenseLayer(MODEL, V, 5, seeded(0)), DenseLayer(MODEL, 5, 4, seeded(1))]
    for layer in layers:  # in training mode, as a stage leaves them
        layer.train()
    return layers


def _part(seed: int = 0) -> InMemory:
    return InMemory(torch.randn(50, V, generator=seeded(seed)), torch.zeros(50, dtype=torch.int64))


class _Counted(nn.Module):
    """A layer that counts how often it is gone through."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.num_passes = 0

    def forward(self, x_BV: Tensor) -> Tensor:
        self.num_passes += 1
        code_BH: Tensor = self.layer(x_BV)
        return code_BH


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_kept_codes_are_those_that_are_computed_anew(cache: Cache) -> None:
    part, layers = _part(), _layers()
    kept = Inputs(part).above(layers[0], cache).above(layers[1], cache)
    anew = Inputs(part).above(layers[0], "none").above(layers[1], "none")
    torch.testing.assert_close(kept.rows(ROWS, 0), anew.rows(ROWS, 0))
    torch.testing.assert_close(kept.mean(), anew.mean())
    codes = layers[1].eval()(layers[0].eval()(part.x_N)).detach()
    assert kept.spread() == pytest.approx(float(codes.std(0, correction=0).mean()), rel=1e-4)
    assert kept.limits() == pytest.approx((float(codes.min()), float(codes.max())))
    assert not kept.rows(ROWS, 0).requires_grad


def test_codes_lie_where_the_samples_do_whatever_the_layer_is() -> None:
    """A layer without weights, such as a pool, lies nowhere itself."""
    part = InMemory(torch.empty(9, V, device="meta"), torch.zeros(9, dtype=torch.int64))
    assert Inputs(part).above(nn.ReLU(), "memory").rows(torch.tensor([3]), 0).device.type == "meta"


def test_codes_on_disk_are_found_again_by_whoever_has_the_same_layers_and_data() -> None:
    lower, upper = (_Counted(layer) for layer in _layers())
    first = Inputs(_part()).above(lower, "disk").above(upper, "disk")
    assert (lower.num_passes, upper.num_passes) == (1, 1)
    again = Inputs(_part()).above(lower, "disk").above(upper, "disk")
    assert (lower.num_passes, upper.num_passes) == (1, 1)
    assert torch.equal(first.rows(ROWS, 0), again.rows(ROWS, 0))


def test_other_data_and_other_weights_have_other_codes() -> None:
    layer = _Counted(_layers()[0])
    Inputs(_part()).above(layer, "disk")
    Inputs(_part(seed=1)).above(layer, "disk")
    assert layer.num_passes == 2
    with torch.no_grad():
        next(layer.parameters())[0, 0] += 0.5
    codes = Inputs(_part()).above(layer, "disk")
    assert layer.num_passes == 3
    torch.testing.assert_close(codes.rows(ROWS, 0), layer(_part().x_N[ROWS]))


def test_a_damaged_file_is_computed_anew(node_cache: Path) -> None:
    layer = _Counted(_layers()[0])
    whole = Inputs(_part()).above(layer, "disk").rows(ROWS, 0)
    (file,) = node_cache.glob("codes/*.npy")
    file.unlink()
    file.write_bytes(b"what a dying machine left")
    again = Inputs(_part()).above(layer, "disk")
    assert layer.num_passes == 2
    assert torch.equal(again.rows(ROWS, 0), whole)


def test_what_was_used_longest_ago_makes_room(
    node_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower, upper = _layers()
    below = Inputs(_part()).above(lower, "disk")
    (old,) = node_cache.glob("codes/*.npy")
    monkeypatch.setattr(kept_codes, "CODES_BYTES_MAX", old.stat().st_size)
    os.utime(old, (0, 0))
    below.above(upper, "disk")
    (left,) = node_cache.glob("codes/*.npy")
    assert left != old
    assert len(below.rows(ROWS, 0)) == len(ROWS)  # an open file outlives its deletion


def test_codes_that_memory_has_no_room_for_are_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = _Counted(_layers()[0])
    monkeypatch.setattr(handover, "CODES_IN_MEMORY_BYTES_MAX", 50 * 5 * 4 - 1)
    with pytest.raises(NotKept, match=r"not kept in memory .* cache: disk keeps more"):
        Inputs(_part()).above(layer, "memory")
    monkeypatch.setattr(handover, "CODES_IN_MEMORY_BYTES_MAX", 50 * 5 * 4)
    assert Inputs(_part()).above(layer, "memory").rows(ROWS, 0).shape == (3, 5)


def test_a_full_disk_is_told_before_anything_is_mapped(
    node_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, start: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NotKept, match=r"not kept on disk \(.*No space left"):
        Inputs(_part()).above(_layers()[0], "disk")
    assert not [path for path in node_cache.glob("codes/*") if path.suffix != ".lock"]
