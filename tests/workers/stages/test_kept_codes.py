"""Codes on the node's disk: found by who has the same layers, whole whatever dies or is deleted."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.contract.recipe import Recipe
from workers.data.node_folder import VARIABLE, publish
from workers.data.part import InMemory
from workers.models.layered import Layer
from workers.stages import kept_codes
from workers.stages.catalog import first_inputs
from workers.stages.kept_codes import kept_on_disk

N, V = 40, 6
CODES_NV = torch.arange(float(N * V)).reshape(N, V)
CPU = torch.device("cpu")
MLP = {"kind": "mlp", "hidden": [5, 4], "activation": "tanh"}
CUSTOM = {"kind": "custom", "import": "nets:build", "options": {"width": 3}}
CODE = "sha256:" + "1" * 64


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where codes are kept, of this test alone."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path / "codes"


def _codes() -> Iterator[Tensor]:
    for start in range(0, N, 7):
        yield CODES_NV[start : start + 7]


def _dying() -> Iterator[Tensor]:
    """The first half, and then the death of the process."""
    yield CODES_NV[: N // 2]
    os.kill(os.getpid(), signal.SIGKILL)


def _killed_in_the_middle(digest: str) -> None:
    # Forked: it computes nothing with torch, whose threads do not live on in a fork.
    process = multiprocessing.get_context("fork").Process(
        target=kept_on_disk, args=(digest, N, _dying(), CPU)
    )
    process.start()
    process.join(30.0)
    assert process.exitcode == -signal.SIGKILL


def test_a_kill_in_the_middle_leaves_nothing_that_is_taken_for_whole(folder: Path) -> None:
    _killed_in_the_middle("a")
    assert [path.name for path in folder.glob("*.part")] == ["a-cpu.npy.part"]
    found = kept_on_disk("a", N, _codes(), CPU)
    assert torch.equal(found, CODES_NV)
    assert torch.equal(kept_on_disk("a", N, iter(()), CPU), CODES_NV)  # not computed again
    assert list(folder.glob("*.part")) == []


def test_what_a_kill_left_is_deleted_by_whoever_writes_next(folder: Path) -> None:
    _killed_in_the_middle("a")
    kept_on_disk("b", N, _codes(), CPU)
    assert {path.name for path in folder.iterdir()} == {"b-cpu.npy", "b-cpu.npy.lock"}


def test_codes_that_others_delete_at_once_are_still_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job may need the room as soon as the file is in place."""

    def published_and_deleted(path: Path) -> None:
        publish(path)
        path.unlink()

    monkeypatch.setattr(kept_codes, "publish", published_and_deleted)
    found = kept_on_disk("a", N, _codes(), CPU)
    assert list(folder.glob("*.npy")) == []
    assert torch.equal(found, CODES_NV)


def test_more_than_a_node_may_hold_is_refused_before_anything_is_deleted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_on_disk("a", N, _codes(), CPU)
    monkeypatch.setattr(kept_codes, "CODES_BYTES_MAX", N * V * 4 - 1)
    with pytest.raises(OSError, match=r"they take .* GiB, and all of a node may take"):
        kept_on_disk("b", N, _codes(), CPU)
    assert [path.name for path in folder.glob("*.npy")] == ["a-cpu.npy"]
    assert list(folder.glob("*.part")) == []


class _Fixed(Layer):
    """A layer without weights, as of a custom net: nothing of what it does shows in its state."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0


def _files_of(folder: Path, model: dict[str, Any], code: str | None = None) -> set[str]:
    recipe = Recipe.model_validate({"data": {"source": "digits"}, "model": model, "code": code})
    part = InMemory(CODES_NV, torch.zeros(N, dtype=torch.int64))
    first_inputs(recipe, part).above(_Fixed(), "disk")
    return {path.name for path in folder.glob("*.npy")}


def test_a_deeper_net_of_the_same_kind_finds_the_codes_of_its_lower_layers(folder: Path) -> None:
    first = _files_of(folder, MLP)
    assert _files_of(folder, MLP | {"hidden": [5, 4, 3], "init": "xavier"}) == first
    assert len(_files_of(folder, MLP | {"activation": "relu"})) == 2
    assert len(_files_of(folder, MLP | {"normalization": "layer"})) == 3


def test_other_code_of_a_custom_net_finds_none(folder: Path) -> None:
    first = _files_of(folder, CUSTOM, CODE)
    assert _files_of(folder, CUSTOM, CODE) == first
    assert len(_files_of(folder, CUSTOM, CODE[:-1] + "2")) == 2
    assert len(_files_of(folder, CUSTOM | {"options": {"width": 4}}, CODE)) == 3
