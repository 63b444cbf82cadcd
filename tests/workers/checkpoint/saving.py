"""One small checkpoint, saved by one rank, for tests that then read or damage it."""

from typing import Any

import fsspec
import torch

from workers.checkpoint.writer import CheckpointWriter, SavePoint
from workers.contract.reports import CheckpointRef, CheckpointWritten
from workers.contract.wire import JobId

JOB = JobId("0192f0c1-2345-7000-8000-000000000001")
STATE = {"stage": "finetune", "epoch": 3, "best": {"test_error": 1.5}, "order": [2, 1]}


def some_tensors(value: float = 1.0) -> dict[str, Any]:
    """Nested tensors of several dtypes and shapes, and a number."""
    return {
        "model": {
            "0.weight": torch.full((3, 4), value),
            "0.running_mean": torch.full((3,), value, dtype=torch.float64),
            "0.num_batches": torch.tensor(int(value)),
        },
        "optimizer": {"lr": value / 10, "half": torch.full((2, 2), value, dtype=torch.bfloat16)},
    }


def save_one(
    storage_url: str,
    *,
    step: int = 7,
    attempt: int = 1,
    rank: int = 0,
    world_size: int = 1,
    **replaced: Any,
) -> CheckpointWritten | None:
    """Save `some_tensors` (or what is given instead) at `step`."""
    tensors = replaced.pop("tensors", some_tensors())
    writer = CheckpointWriter(storage_url, JOB, attempt, rank, world_size)
    return writer.save(point(step, rank, **replaced), tensors)


def point(step: int = 7, rank: int = 0, **replaced: Any) -> SavePoint:
    """What a checkpoint at `step` holds beside its tensors."""
    own = {"rng": torch.arange(16, dtype=torch.uint8) + rank}
    parts: dict[str, Any] = {"state": STATE, "rank_tensors": own} | replaced
    return SavePoint(stage_index=1, stage="finetune", step=step, **parts)


def saved(storage_url: str, **options: Any) -> CheckpointRef:
    """Save with a world size of 1; return the reference."""
    written = save_one(storage_url, **options)
    assert written is not None
    return written.ref


def file_names(storage_url: str, ref: CheckpointRef) -> list[str]:
    files, root = fsspec.url_to_fs(f"{storage_url}/{ref.path}")
    return sorted(name.rpartition("/")[2] for name in files.ls(root, detail=False))


def read(storage_url: str, ref: CheckpointRef, name: str) -> bytes:
    with fsspec.open(f"{storage_url}/{ref.path}/{name}", "rb") as stream:
        content: bytes = stream.read()
    return content


def overwrite(storage_url: str, ref: CheckpointRef, name: str, content: bytes) -> None:
    with fsspec.open(f"{storage_url}/{ref.path}/{name}", "wb") as stream:
        stream.write(content)


def delete(storage_url: str, ref: CheckpointRef, name: str) -> None:
    files, root = fsspec.url_to_fs(f"{storage_url}/{ref.path}/{name}")
    files.rm(root)
