"""A net's weights and buffers out of a checkpoint, by name, without the net that they belong to."""

import torch
from torch import Tensor

from workers.checkpoint.folder import Folder
from workers.checkpoint.reader import Verified
from workers.contract.manifest import CheckpointDamaged, verify
from workers.contract.reports import CheckpointRef

NET = "net"  # the part of a checkpoint's tensors that is the net itself


def net_weights(storage_url: str, ref: CheckpointRef) -> dict[str, Tensor]:
    """Return every weight and buffer of the net on the CPU, each with memory of its own.

    Every byte is compared with the manifest first. Local to the caller: ranks may differ in it.

    Raises:
        CheckpointDamaged: something is not what was recorded.
        StorageFailure: storage can't be read.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata  # imports DCP: 0.4 s

    from workers.checkpoint.tensors import load_tensors

    folder = Folder(storage_url, ref.path)
    verify(folder.read_chunks, ref.manifest_sha256)
    metadata = Verified(folder, ref).metadata()
    prefix = f"{NET}."
    found = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in metadata.state_dict_metadata.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }
    if not found:
        raise CheckpointDamaged(f"{ref.path} holds no net")
    load_tensors(folder, metadata, found, world_size=1)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}
