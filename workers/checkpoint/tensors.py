"""A checkpoint's tensors, in the format of torch.distributed.checkpoint (DCP).

The format is the same for plain, DDP and FSDP2 tensors, and a load reshards to whatever it is
given. DCP plans who writes what; our folder does the writing, so that every file is durable and
hashed. Importing this file imports DCP, which takes 0.4 s: import it where it is first needed.
"""

import io
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import (
    CURRENT_DCP_VERSION,
    FileSystemReader,
    FileSystemWriter,
)
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem, SavePlan
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult

from workers.checkpoint.folder import Folder
from workers.checkpoint.metadata import METADATA
from workers.contract.manifest import CheckpointDamaged
from workers.contract.outcome import StorageFailure


def save_tensors(
    folder: Folder,
    tensors: dict[str, Any],
    world_size: int,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Create the folder and write `tensors` into it; collective over the group, or the default one.

    Replicated tensors are written once, shared out over the ranks; shards by their owners.

    Raises:
        StorageFailure: on every rank, if it failed on one.
    """
    writer = _Writer(folder)
    try:
        with _quiet_without_group():
            save(tensors, storage_writer=writer, process_group=group, no_dist=world_size == 1)
    except CheckpointException as error:  # a BaseException: `except Exception` misses it
        raise StorageFailure(f"{folder.path} can't be saved: {_told(error)}") from error


def load_tensors(
    folder: Folder, metadata: Metadata, tensors: dict[str, Any], world_size: int
) -> None:
    """Load into `tensors` in place; collective. Call it only on what was verified.

    After a failure the tensors are in an undefined state.

    Raises:
        CheckpointDamaged: on every rank, if a tensor is missing in the checkpoint or has another
            shape there.
        StorageFailure: on every rank, if storage can't be read.
    """
    reader = _Reader(folder, metadata)
    try:
        with _quiet_without_group():
            load(
                tensors,
                storage_reader=reader,
                planner=_WeightsOnlyPlanner(),
                no_dist=world_size == 1,
            )
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        if any(isinstance(cause, StorageFailure) for cause in causes):
            raise StorageFailure(f"{folder.path} can't be read: {_told(error)}") from error
        raise CheckpointDamaged(f"{folder.path} does not fit: {_told(error)}") from error


class _Streams:
    """The two calls that DCP's writer and reader make on a file system, on our folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    @contextmanager
    def create_stream(self, name: str, mode: str) -> Iterator[IO[bytes]]:
        opened = self._folder.reading(name) if mode == "rb" else self._folder.writing(name)
        with opened as stream:
            yield stream

    def concat_path(self, _path: object, name: str) -> str:
        return name


class _Writer(FileSystemWriter):
    """Writes `__<rank>_0.distcp` on each rank that has something to write, then `.metadata`."""

    def __init__(self, folder: Folder) -> None:
        # Our folder syncs each file by itself; DCP's way would be `sync` of the whole machine.
        super().__init__(folder.path, sync_files=False)
        self._folder = folder
        self._creates = False
        self.fs = _Streams(folder)  # type: ignore[assignment]  # all that the base class calls

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        self._creates = is_coordinator

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        # All plans are gathered before anyone writes, so the folder stands when others need it.
        if self._creates:
            self._folder.create()
        return plan

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        # As the base class does, less its rename: our manifest says what is whole, and object
        # stores can't rename.
        metadata.version = CURRENT_DCP_VERSION
        metadata.storage_data = {one.index: one.storage_data for rank in results for one in rank}
        metadata.storage_meta = StorageMeta(checkpoint_id=self._folder.path)
        with self._folder.writing(METADATA) as stream:
            pickle.dump(metadata, stream)


class _Reader(FileSystemReader):
    """Reads from our folder, with a table of contents that was read safely."""

    def __init__(self, folder: Folder, metadata: Metadata) -> None:
        super().__init__(folder.path)
        self._metadata = metadata
        self.fs = _Streams(folder)  # type: ignore[assignment]  # all that the base class calls

    def read_metadata(self) -> Metadata:
        return self._metadata


class _WeightsOnlyPlanner(DefaultLoadPlanner):
    """The default planner, which unpickles numbers with `weights_only=False`; here it is True."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        # Written anew, because the base class offers no other way to hand it the safe value.
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)


@contextmanager
def _quiet_without_group() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _told(error: CheckpointException) -> str:
    return "; ".join(f"rank {rank}: {cause}" for rank, (cause, _) in error.failures.items())
