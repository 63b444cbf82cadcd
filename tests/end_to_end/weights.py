"""Everything that a checkpoint holds, read back without knowing the net."""

from typing import Any

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from workers.checkpoint.folder import Folder
from workers.checkpoint.metadata import METADATA, parse_metadata
from workers.checkpoint.reader import load
from workers.contract.reports import CheckpointRef


def saved_tensors(storage_url: str, recorded: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint with this reference, by their flat names."""
    ref = CheckpointRef.model_validate(recorded)
    table = parse_metadata(b"".join(Folder(storage_url, ref.path).read_chunks(METADATA)))
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in table.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    load(storage_url, ref, tensors, rank=0)
    return tensors
