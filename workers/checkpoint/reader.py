"""Reads checkpoints: everything is compared with the manifest, and that with the row, before use.

Missing or changed files are damage, and an older checkpoint may do. Storage that can't be read at
all is not: falling back for an outage would throw training away, so that is a StorageFailure.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workers.checkpoint.folder import STATE, Folder, rank_file
from workers.contract.manifest import CheckpointDamaged, Manifest, verify
from workers.contract.paths import MANIFEST
from workers.contract.reports import CheckpointRef

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint gives besides the tensors that it loads in place."""

    ref: CheckpointRef
    state: dict[str, Any]
    rank_tensors: dict[str, Any]  # {} where this rank had none when it was saved


def newest_whole(
    storage_url: str, refs: Sequence[CheckpointRef]
) -> tuple[CheckpointRef | None, tuple[str, ...]]:
    """Return the first of `refs` that verifies, and a sentence for each before it that did not.

    Reads every byte of the checkpoints that it tries; local to the caller.

    Raises:
        StorageFailure: storage can't be read.
    """
    refused: list[str] = []
    for ref in refs:
        try:
            verify(Folder(storage_url, ref.path).read_chunks, ref.manifest_sha256)
        except CheckpointDamaged as error:
            refused.append(f"The checkpoint {ref.path} is damaged: {error}.")
        else:
            return ref, tuple(refused)
    return None, tuple(refused)


def peek_state(storage_url: str, ref: CheckpointRef) -> dict[str, Any]:
    """Return the JSON state, verified; reads the manifest and the state only.

    Raises:
        CheckpointDamaged: one of the two is not what was recorded.
        StorageFailure: storage can't be read.
    """
    return Verified(Folder(storage_url, ref.path), ref).state()


def load(storage_url: str, ref: CheckpointRef, tensors: dict[str, Any], rank: int) -> Loaded:
    """Load a checkpoint into `tensors` in place; every rank calls it if there is a process group.

    `tensors` is as it was given to `save`: the same names and shapes, with any sharding. Names that
    only the checkpoint has are left out. Rank 0 reads every byte to verify it, before any rank
    loads anything; the small files are verified by every rank that reads them. After a failure the
    tensors are in an undefined state.

    Raises:
        CheckpointDamaged: on every rank: something is not what was recorded, or does not fit.
        StorageFailure: on every rank: storage can't be read.
    """
    # Imported here, because torch is not needed to tell which checkpoint is whole.
    import torch.distributed as dist

    from workers.checkpoint.agreement import failing_together
    from workers.checkpoint.tensors import load_tensors

    world_size = dist.get_world_size() if dist.is_initialized() else 1
    with failing_together(world_size):
        folder = Folder(storage_url, ref.path)
        if rank == 0:
            verify(folder.read_chunks, ref.manifest_sha256)
        verified = Verified(folder, ref)
        loaded = Loaded(ref, verified.state(), verified.rank_tensors(rank))
        metadata = verified.metadata()
    load_tensors(folder, metadata, tensors, world_size)
    return loaded


class Verified:
    """The small files of a checkpoint, each compared with the manifest as it is read."""

    def __init__(self, folder: Folder, ref: CheckpointRef) -> None:
        self._folder = folder
        text = self._bytes(MANIFEST, ref.manifest_sha256)
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            raise CheckpointDamaged(f"{MANIFEST} can't be understood") from error
        self._sha256 = {file.name: file.sha256 for file in manifest.files}

    def state(self) -> dict[str, Any]:
        """The JSON state; raise CheckpointDamaged or StorageFailure, as the others do."""
        try:
            state = json.loads(self.read(STATE))
        except ValueError as error:
            raise CheckpointDamaged(f"{STATE} can't be understood: {error}") from error
        if not isinstance(state, dict):
            raise CheckpointDamaged(f"{STATE} holds no object")
        return state

    def rank_tensors(self, rank: int) -> dict[str, Any]:
        """What belonged to one rank, on the CPU; {} where it had nothing."""
        import torch

        name = rank_file(rank)
        if name not in self._sha256:
            return {}
        content = self.read(name)
        try:  # onto the CPU: what a GPU's rank saved is not damaged for one without
            tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # a bad pickle may raise nearly anything
            raise CheckpointDamaged(f"{name} holds more than tensors: {error}") from error
        return dict(tensors)

    def metadata(self) -> "Metadata":
        """The tensors' table of contents; it names no file that the manifest does not list."""
        from workers.checkpoint.metadata import METADATA, parse_metadata

        metadata = parse_metadata(self.read(METADATA))
        for place in (metadata.storage_data or {}).values():
            if place.relative_path not in self._sha256:
                raise CheckpointDamaged(
                    f"{METADATA} names {place.relative_path}, which {MANIFEST} does not list"
                )
        return metadata

    def read(self, name: str) -> bytes:
        """All bytes of a file that the manifest lists."""
        if name not in self._sha256:
            raise CheckpointDamaged(f"{MANIFEST} lists no {name}")
        return self._bytes(name, self._sha256[name])

    def _bytes(self, name: str, sha256: str) -> bytes:
        try:
            content = b"".join(self._folder.read_chunks(name))
        except OSError as error:
            raise CheckpointDamaged(f"{name} can't be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise CheckpointDamaged(f"{name} is not the one that was recorded")
        return content
