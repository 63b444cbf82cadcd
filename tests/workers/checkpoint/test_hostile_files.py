"""Planted files: what a pickle would have done is not done, even under a manifest that fits it."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as plain_load

from tests.workers.checkpoint.saving import overwrite, read, saved, some_tensors
from workers.checkpoint.metadata import parse_metadata
from workers.checkpoint.reader import load
from workers.contract.manifest import CheckpointDamaged, Manifest
from workers.contract.reports import CheckpointRef

# DCP says so whenever it is used without a process group.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


def _plant(root: Path, ref: CheckpointRef, name: str, content: bytes) -> CheckpointRef:
    """Replace a file, and make the manifest and the reference agree with it."""
    overwrite(str(root), ref, name, content)
    manifest = Manifest.model_validate_json(read(str(root), ref, "manifest.json"))
    files = tuple(
        file.model_copy(
            update={"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        )
        if file.name == name
        else file
        for file in manifest.files
    )
    text = manifest.model_copy(update={"files": files}).model_dump_json().encode()
    overwrite(str(root), ref, "manifest.json", text)
    return ref.model_copy(update={"manifest_sha256": hashlib.sha256(text).hexdigest()})


def test_a_planted_table_of_contents_runs_nothing(tmp_path: Path, mark: Path) -> None:
    ref = _plant(tmp_path, saved(str(tmp_path)), ".metadata", pickle.dumps(Hostile(mark)))

    with pytest.raises(CheckpointDamaged, match=r"posix\.mkdir, which has no place"):
        load(str(tmp_path), ref, some_tensors(), rank=0)
    assert not mark.exists()

    with pytest.raises(BaseException, match="Checkpoint"):  # the danger is real: DCP by itself
        plain_load(some_tensors(), storage_reader=FileSystemReader(tmp_path / ref.path))
    assert mark.exists()


@pytest.mark.parametrize("name", ["../secret", "not-listed"])
def test_a_table_of_contents_opens_no_file_that_the_manifest_does_not_list(
    name: str, tmp_path: Path
) -> None:
    ref = saved(str(tmp_path))
    listed = tmp_path / ref.path / "__0_0.distcp"
    (listed.parent / name).write_bytes(listed.read_bytes())
    metadata = parse_metadata(read(str(tmp_path), ref, ".metadata"))
    for place in metadata.storage_data.values():
        place.relative_path = name
    ref = _plant(tmp_path, ref, ".metadata", pickle.dumps(metadata))

    with pytest.raises(CheckpointDamaged, match=f"names {name}, which manifest.json does not"):
        load(str(tmp_path), ref, some_tensors(), rank=0)

    plain_load(some_tensors(), storage_reader=FileSystemReader(tmp_path / ref.path))  # DCP does


@pytest.mark.parametrize("text", [b"{", b"[]"])
def test_a_state_that_is_none_is_damage(text: bytes, tmp_path: Path) -> None:
    ref = _plant(tmp_path, saved(str(tmp_path)), "state.json", text)

    with pytest.raises(CheckpointDamaged, match=r"state\.json"):
        load(str(tmp_path), ref, some_tensors(), rank=0)


def test_a_planted_number_runs_nothing(tmp_path: Path, mark: Path) -> None:
    ref = saved(str(tmp_path), tensors={"lr": Hostile(mark)})

    with pytest.raises(CheckpointDamaged):
        load(str(tmp_path), ref, {"lr": 0.1}, rank=0)
    assert not mark.exists()

    plain_load({"lr": 0.1}, storage_reader=FileSystemReader(tmp_path / ref.path))
    assert mark.exists()


def test_planted_rank_tensors_run_nothing(tmp_path: Path, mark: Path) -> None:
    ref = saved(str(tmp_path), rank_tensors={"rng": Hostile(mark)})

    with pytest.raises(CheckpointDamaged, match=r"rank-0\.pt"):
        load(str(tmp_path), ref, some_tensors(), rank=0)
    assert not mark.exists()

    torch.load(tmp_path / ref.path / "rank-0.pt", weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"no pickle",
        pickle.dumps({"a": 1}),
        b"\x80\x04\x8c\x05torch\x8c\x04load\x93.",  # the function torch.load
        b"\x80\x04\x8c\x26torch.distributed.checkpoint.metadata\x8c\x09os.system\x93.",
        b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
    ],
    ids=["empty", "noise", "dict", "torch function", "dotted name", "builtin"],
)
def test_what_is_no_table_of_contents_is_damage(pickled: bytes) -> None:
    with pytest.raises(CheckpointDamaged):
        parse_metadata(pickled)
