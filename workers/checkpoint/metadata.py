"""Reads `.metadata`, the table of contents that torch.distributed.checkpoint pickles, safely.

Unpickling can call anything that can be named. DCP does it with plain `pickle.load`: whoever can
plant a file runs code in the training. Here only the classes that such a table is made of have
names.
"""

import io
import pickle
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata

from workers.contract.manifest import CheckpointDamaged

METADATA = ".metadata"  # DCP's own name for it

_DCP = "torch.distributed.checkpoint"
_ALLOWED = frozenset(
    {
        (f"{_DCP}.metadata", "Metadata"),
        (f"{_DCP}.metadata", "MetadataIndex"),
        (f"{_DCP}.metadata", "StorageMeta"),
        (f"{_DCP}.metadata", "TensorStorageMetadata"),
        (f"{_DCP}.metadata", "BytesStorageMetadata"),
        (f"{_DCP}.metadata", "ChunkStorageMetadata"),
        (f"{_DCP}.metadata", "TensorProperties"),
        (f"{_DCP}.metadata", "_MEM_FORMAT_ENCODING"),
        (f"{_DCP}.filesystem", "_StorageInfo"),
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
    }
)


def parse_metadata(pickled: bytes) -> Metadata:
    """Return the table of contents; raise CheckpointDamaged if it is or names anything else."""
    try:
        metadata = _Unpickler(io.BytesIO(pickled)).load()
    except CheckpointDamaged:
        raise
    except Exception as error:  # a bad pickle may raise nearly anything
        raise CheckpointDamaged(f"{METADATA} can't be understood: {error!r}") from error
    if not isinstance(metadata, Metadata):
        raise CheckpointDamaged(f"{METADATA} holds a {type(metadata).__name__}")
    return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED or _is_dtype(module, name):
            return super().find_class(module, name)
        raise CheckpointDamaged(f"{METADATA} names {module}.{name}, which has no place in it")


def _is_dtype(module: str, name: str) -> bool:
    return module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
