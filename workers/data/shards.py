"""The format of a stream: shards of samples as .npy files, and an index that names and hashes them.

    train/index.json       the shape and type of a sample, the classes, every shard with its hash
    train/labels.npy       the labels of all samples, (N,)
    train/00000.npy, ...   the samples of each shard, (n, ...); any number type
    validation/..., test/...   the same, where there are such

.npy is read by memory map, so a sample costs no more than its own bytes; and by everything that
knows NumPy.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.data.sources import Places

VERSION = 1
INDEX = "index.json"
LABELS = "labels.npy"
SHARD_BYTES = 64 * 2**20  # some seconds of a slow network; a few of them are open at a time
SHARDS_MAX = 1_000_000  # the index is read whole
HASHED_AT_ONCE = 2**20

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Shard:
    """One file of samples."""

    name: str
    num_samples: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """What a part of a stream holds."""

    shape: tuple[int, ...]  # of one sample
    dtype: str
    num_classes: int
    labels_sha256: str
    shards: tuple[Shard, ...]

    @property
    def num_samples(self) -> int:
        """N."""
        return sum(shard.num_samples for shard in self.shards)

    def text(self) -> str:
        """Return the content of the index file."""
        shards = [vars(shard) for shard in self.shards]
        return json.dumps({"version": VERSION, **vars(self), "shards": shards}, indent=1)


def parsed(text: str, place: str) -> Index:
    """Read the content of an index file.

    Raises:
        ConfigFailure: it is none, or one of another version.
    """
    try:
        found = json.loads(text)
        version = found.pop("version")
        shards = tuple(Shard(**shard) for shard in found.pop("shards"))
        index = Index(shards=shards, shape=tuple(found.pop("shape")), **found)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigFailure(f"data.path: {place} is no index of a stream: {error}") from error
    if version != VERSION:
        raise ConfigFailure(
            f"data.path: {place} has version {version}, this code reads version {VERSION}; write "
            "the stream anew"
        )
    if not index.shards or len(index.shards) > SHARDS_MAX:
        raise ConfigFailure(
            f"data.path: {place} has {len(index.shards)} shards; 1 to {SHARDS_MAX} can be read"
        )
    return index


def write_shards(
    samples: Iterable[tuple[Array, Array]], url: str, shard_bytes: int = SHARD_BYTES
) -> Index:
    """Write one part of a stream, such as `.../train`; its index comes last.

    Args:
        samples: (x, y) some at a time, x (n, ...) and y (n,) integers; they need not fit in memory.
        url: of the folder; any that fsspec opens.
        shard_bytes: about how large a shard becomes.

    Raises:
        ValueError: there are none, or they do not fit together.
    """
    import fsspec

    system, root = fsspec.core.url_to_fs(url)
    system.makedirs(root, exist_ok=True)
    shards: list[Shard] = []
    labels: list[Array] = []
    shape: tuple[int, ...] | None = None
    dtype = ""
    for x, y in _regrouped(samples, shard_bytes):
        if shape is None:
            shape, dtype = x.shape[1:], str(x.dtype)
        if x.shape[1:] != shape or str(x.dtype) != dtype or y.shape != (len(x),):
            raise ValueError(f"samples {x.dtype} {x.shape} and labels {y.shape} do not fit")
        name = f"{len(shards):05d}.npy"
        shards.append(Shard(name, len(x), _write(system, f"{root}/{name}", x)))
        labels.append(y.astype(np.int64))
    if shape is None:
        raise ValueError("there are no samples")
    y_N = np.concatenate(labels)
    index = Index(
        shape=shape,
        dtype=dtype,
        num_classes=int(y_N.max()) + 1,
        labels_sha256=_write(system, f"{root}/{LABELS}", y_N),
        shards=tuple(shards),
    )
    with system.open(f"{root}/{INDEX}", "w") as stream:
        stream.write(index.text())
    return index


def shard_files(
    x_path: Path,
    y_path: Path,
    to: str,
    storage_url: str,
    data_roots: tuple[str, ...],
    shard_bytes: int,
) -> Index:
    """Write .npy files, which may be larger than memory, as one part of a stream.

    Raises:
        ConfigFailure: the files do not fit together, or `to` is outside or taken.
        StorageFailure: storage can't be written.
    """
    import fsspec

    url = Places(storage_url, data_roots).url(to)
    x, y = (_mapped(path) for path in (x_path, y_path))
    if x.ndim < 2 or x.dtype.kind not in "buif" or y.dtype.kind not in "bui" or len(x) == 0:
        raise ConfigFailure(
            f"{x_path} and {y_path}: samples are numbers (n, ...) and labels are integers (n,), "
            f"not {x.dtype} {x.shape} and {y.dtype} {y.shape}"
        )
    if y.shape != (len(x),) or int(y.min()) < 0:
        raise ConfigFailure(
            f"{y_path}: give {len(x)} labels of 0 or more, one for each sample, not {y.shape} "
            f"from {y.min()} on"
        )
    rows = max(1, shard_bytes // max(1, x[0].nbytes))
    pieces = ((x[k : k + rows], y[k : k + rows]) for k in range(0, len(x), rows))
    try:
        system, root = fsspec.core.url_to_fs(url)
        if system.exists(f"{root}/{INDEX}"):
            raise ConfigFailure(f"{to} has a stream already; write to another place")
        return write_shards(pieces, url, shard_bytes)
    except OSError as error:
        raise StorageFailure(f"{url} can't be written: {error}") from error


def sha256_of(path: Path) -> str:
    """Return the hash of a file."""
    hashed = hashlib.sha256()
    with path.open("rb") as stream:
        while content := stream.read(HASHED_AT_ONCE):
            hashed.update(content)
    return hashed.hexdigest()


def _mapped(path: Path) -> Array:
    try:
        found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ConfigFailure(f"{path} is no .npy file of numbers: {error}") from error
    return found


def _regrouped(
    samples: Iterable[tuple[Array, Array]], shard_bytes: int
) -> Iterator[tuple[Array, Array]]:
    """The same samples, as many at a time as make a shard."""
    xs: list[Array] = []
    ys: list[Array] = []
    for x, y in samples:
        if len(x) == 0:
            continue
        per_shard = max(1, shard_bytes // (x.nbytes // len(x) or 1))
        xs.append(np.asarray(x))
        ys.append(np.asarray(y))
        if sum(map(len, xs)) < per_shard:
            continue
        x_all, y_all = np.concatenate(xs), np.concatenate(ys)
        whole = len(x_all) // per_shard * per_shard
        for start in range(0, whole, per_shard):
            yield x_all[start : start + per_shard], y_all[start : start + per_shard]
        xs, ys = [x_all[whole:]], [y_all[whole:]]
    if sum(map(len, xs)) > 0:
        yield np.concatenate(xs), np.concatenate(ys)


def _write(system: Any, path: str, array: Array) -> str:
    """Write an array as .npy; return the hash of its file."""
    hashed = _Hashing()
    with system.open(path, "wb") as stream:
        hashed.stream = stream
        np.save(hashed, array, allow_pickle=False)
    return hashed.sha256.hexdigest()


class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.stream: Any = None

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        return int(self.stream.write(content))
