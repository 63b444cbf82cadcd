"""Pins what we rely on in torch.distributed.checkpoint beyond its documentation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as plain_load

from tests.workers.checkpoint.saving import saved, some_tensors
from workers.checkpoint.reader import load

# DCP says so whenever it is used without a process group.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


def test_dcp_by_itself_can_read_what_we_save(tmp_path: Path) -> None:
    ref = saved(str(tmp_path), tensors=some_tensors(3.0))
    tensors = some_tensors(0.0)

    plain_load(tensors, storage_reader=FileSystemReader(tmp_path / ref.path))

    torch.testing.assert_close(tensors, some_tensors(3.0), rtol=0, atol=0)


def test_the_allow_list_lets_everything_through_that_training_saves(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.ones(2, dtype=dtype) for dtype in DTYPES}
    images = torch.ones(1, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    numbers = {"int": 1, "float": 0.5, "text": "a", "none": None, "list": [1, 2], "pair": (1, 2)}
    ref = saved(str(tmp_path), tensors={**tensors, **numbers, "images": images})
    found: dict[str, Any] = {
        **{name: torch.zeros_like(tensor) for name, tensor in tensors.items()},
        **dict.fromkeys(numbers, 0),
        "images": torch.zeros_like(images),
    }

    load(str(tmp_path), ref, found, rank=0)

    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name
    assert {name: found[name] for name in numbers} == numbers
    assert torch.equal(found["images"], images)


def test_its_failures_escape_an_ordinary_except() -> None:
    # The day this fails, the two `except CheckpointException` can become plain ones.
    assert not issubclass(CheckpointException, Exception)


@pytest.mark.parametrize("name", ["create_stream", "concat_path"])
def test_the_file_system_calls_that_we_stand_in_for_exist(name: str, tmp_path: Path) -> None:
    assert callable(getattr(FileSystemWriter(str(tmp_path)).fs, name))
    assert callable(getattr(FileSystemReader(str(tmp_path)).fs, name))
