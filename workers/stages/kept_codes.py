"""Keeps the codes of all samples on the node's disk, under a name that says what they are.

The name is a hash of the data and of the layers that encoded them, so retries find them again, and
so do other jobs that begin with the same layers. A file that is there is whole: it was moved into
place. Letters: N samples, V inputs of a stage's layer.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from workers.data.node_folder import alone, evict, node_folder, publish, touch, unfinished

GIB = 2**30
CODES_BYTES_MAX = 50 * GIB  # of a node; what was used longest ago goes first
SUFFIX = ".npy"


def digest_above(digest: str, layers: Sequence[nn.Module]) -> str:
    """Return the hash of what layers make of the samples with this hash."""
    hashed = hashlib.sha256(digest.encode())
    for layer in layers:
        hashed.update(repr(layer).encode())
        for name, tensor in layer.state_dict().items():
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return hashed.hexdigest()


def kept_on_disk(
    digest: str, num_samples: int, codes: Iterator[Tensor], device: torch.device
) -> Tensor:
    """Return codes, (N, V), mapped from the node's disk; computed only where they are not there.

    Args:
        digest: names them.
        num_samples: N.
        codes: computes them, some rows at a time; not touched if they are found.
        device: decides what "the same" means: another kind of device rounds otherwise.

    Raises:
        OSError: the disk is full, or can't be written; or they are more than it may hold.
    """
    folder = node_folder("codes")
    name = f"{digest}-{device.type}{SUFFIX}"
    path = folder / name
    with alone(folder, name):
        found = _mapped(path)
        if found is None:
            found = _written(path, num_samples, codes)
    touch(path)
    return found


def _mapped(path: Path) -> Tensor | None:
    """The codes of a file; None where there is none, or none that is whole."""
    try:
        # Copy on write: torch takes no read-only memory, and nothing writes to it.
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except (FileNotFoundError, ValueError, EOFError):
        return None


def _written(path: Path, num_samples: int, codes: Iterator[Tensor]) -> Tensor:
    """The codes of a file that is written now; others may delete it as soon as it is in place."""
    into: np.memmap[tuple[int, ...], np.dtype[np.float32]] | None = None
    start = 0
    try:
        for x_BV in codes:
            if into is None:
                shape = (num_samples, *x_BV.shape[1:])
                _make_room(path.parent, num_bytes(shape))
                into = np.lib.format.open_memmap(unfinished(path), "w+", np.float32, shape)
                # A map of a full disk ends its process at the first touch: ask for the room first.
                _reserve(unfinished(path))
            into[start : start + len(x_BV)] = x_BV.cpu().numpy()
            start += len(x_BV)
        assert into is not None, "a training part has samples"
        into.flush()
        del into
        found = _mapped(unfinished(path))
        assert found is not None, "it was just written"
        publish(path)
        return found
    finally:
        unfinished(path).unlink(missing_ok=True)


def num_bytes(shape: Sequence[int]) -> int:
    """Return how many bytes codes of this shape (N, V) take."""
    return math.prod(shape) * np.dtype(np.float32).itemsize


def _make_room(folder: Path, needed_bytes: int) -> None:
    if needed_bytes > CODES_BYTES_MAX:
        raise OSError(
            f"they take {needed_bytes / GIB:.1f} GiB, and all of a node may take "
            f"{CODES_BYTES_MAX / GIB:.1f}"
        )
    evict(folder, SUFFIX, CODES_BYTES_MAX, frozenset(), room=needed_bytes)


def _reserve(path: Path) -> None:
    with path.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)
