"""The format of a stream: shards of samples as .npy files, and an index that names and hashes them.

    train/index.json       the shape and type of a sample, the classes, every shard with its hash
    train/labels.npy       the labels of all samples, (N,)
    train/moments.npy      mean and standard deviation of each feature, (2, ...)
    train/00000.npy, ...   the samples of each shard, (n, ...); any number type
    validation/..., test/...   the same, where there are such

.npy is read by memory map, so a sample costs no more than its own bytes; and by everything that
knows NumPy. The index is written last: without it there is no stream.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from workers.contract.outcome import ConfigFailure, StorageFailure, TrainingFailure
from workers.contract.wire import Message
from workers.data.divide import check_finite, check_numbers, checked_labels
from workers.data.part import rows_at_once
from workers.data.scaling import Moments
from workers.data.sources import CLASSES_MAX, Places, map_npy

VERSION = 1
INDEX = "index.json"
LABELS = "labels.npy"
MOMENTS = "moments.npy"
PARTS = ("train", "validation", "test")
SHARD_BYTES = 64 * 2**20  # some seconds of a slow network; a few of them are open at a time
SHARDS_MAX = 1_000_000  # the index is read whole
HASHED_AT_ONCE = 2**20

Array = npt.NDArray[Any]
Size = Annotated[int, Field(ge=1)]


class Shard(Message):
    """One file of samples."""

    name: Annotated[str, Field(pattern=r"^[0-9A-Za-z_][0-9A-Za-z_.-]*$")]  # never another folder's
    num_samples: Size
    sha256: str


class Index(Message):
    """What a part of a stream holds."""

    version: int = VERSION
    shape: tuple[Size, ...]  # of one sample
    dtype: Annotated[str, Field(pattern=r"^(bool|u?int(8|16|32|64)|float(16|32|64))$")]
    num_classes: Annotated[int, Field(ge=1, le=CLASSES_MAX)]
    labels_sha256: str
    moments_sha256: str
    shards: Annotated[tuple[Shard, ...], Field(min_length=1, max_length=SHARDS_MAX)]

    @property
    def num_samples(self) -> int:
        """N."""
        return sum(shard.num_samples for shard in self.shards)

    def text(self) -> str:
        """Return the content of the index file."""
        return self.model_dump_json(indent=1)


def parsed(text: bytes, place: str) -> Index:
    """Read the content of an index file.

    Raises:
        ConfigFailure: it is none, or one of another version.
    """
    try:
        index = Index.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise ConfigFailure(
            f"data.path: {place} is no index of a stream: {where} {first['msg']}; write the stream "
            "anew"
        ) from error
    if index.version != VERSION:
        raise ConfigFailure(
            f"data.path: {place} has version {index.version}, this code reads version {VERSION}; "
            "write the stream anew"
        )
    return index


def write_shards(
    samples: Iterable[tuple[Array, Array]],
    url: str,
    shard_bytes: int = SHARD_BYTES,
    tell: Callable[[int], None] = lambda _: None,
) -> Index:
    """Write one part of a stream, such as `.../train`.

    Args:
        samples: (x, y) some at a time, x (n, ...) and y (n,) integers; they need not fit in memory.
        url: of the folder; any that fsspec opens.
        shard_bytes: about how large a shard becomes.
        tell: hears how many samples each shard has, once it is written.

    Raises:
        ConfigFailure: there are none, or they do not fit together.
    """
    import fsspec

    system, root = fsspec.core.url_to_fs(url)
    system.makedirs(root, exist_ok=True)
    shards: list[Shard] = []
    labels: list[Array] = []
    moments = Moments()
    shape, dtype = (), ""
    for x, y in _regrouped(_fitting(samples), shard_bytes):
        shape, dtype = x.shape[1:], str(x.dtype)
        for k in range(0, len(x), rows_at_once(shape)):
            moments.add(x[k : k + rows_at_once(shape)])
        name = f"{len(shards):05d}.npy"
        sha256 = _write(system, f"{root}/{name}", x)
        shards.append(Shard(name=name, num_samples=len(x), sha256=sha256))
        labels.append(y)
        tell(len(x))
    if not shards:
        raise ConfigFailure("there are no samples to write")
    y_N = np.concatenate(labels)
    index = Index(
        shape=shape,
        dtype=dtype,
        num_classes=int(y_N.max()) + 1,
        labels_sha256=_write(system, f"{root}/{LABELS}", y_N),
        moments_sha256=_write(
            system, f"{root}/{MOMENTS}", np.stack([moments.mean, moments.spread])
        ),
        shards=tuple(shards),
    )
    with system.open(f"{root}/{INDEX}.part", "w") as stream:
        stream.write(index.text())
    system.mv(f"{root}/{INDEX}.part", f"{root}/{INDEX}")
    return index


def shard_files(
    x_path: Path,
    y_path: Path,
    to: str,
    places: tuple[str, tuple[str, ...]],
    shard_bytes: int,
    counting: Callable[[int], AbstractContextManager[Callable[[int], None]]],
) -> Index:
    """Write .npy files, which may be larger than memory, as one part of a stream.

    Args:
        x_path: samples, (n, ...).
        y_path: labels, (n,).
        to: the folder, below the storage or a data root.
        places: the URL of the storage, and those of the data roots.
        shard_bytes: about how large a shard becomes.
        counting: gets n; within its block each shard's number of samples is told as it is written.

    Raises:
        ConfigFailure: the files do not fit together, or `to` is outside or taken.
        StorageFailure: storage can't be written.
    """
    import fsspec

    url = Places(*places).url(to)
    x, y = (map_npy(path, str(path)) for path in (x_path, y_path))
    check_numbers(x.dtype, x.shape, f"{x_path}: the samples")
    labels = checked_labels(y, len(x), f"{y_path}: the labels")
    rows = max(1, shard_bytes // max(1, x[0].nbytes))
    pieces = ((x[k : k + rows], labels[k : k + rows]) for k in range(0, len(x), rows))
    try:
        system, root = fsspec.core.url_to_fs(url)
        if system.exists(f"{root}/{INDEX}"):
            raise ConfigFailure(f"{to} has a stream already; write to another place")
        with counting(len(x)) as tell:
            return write_shards(pieces, url, shard_bytes, tell)
    except TrainingFailure:
        raise
    except (
        Exception
    ) as error:  # not OSError only: object stores' libraries have errors of their own
        raise StorageFailure(f"{url} can't be written: {error}") from error


def sha256_of(path: Path) -> str:
    """Return the hash of a file."""
    hashed = hashlib.sha256()
    with path.open("rb") as stream:
        while content := stream.read(HASHED_AT_ONCE):
            hashed.update(content)
    return hashed.hexdigest()


def _fitting(samples: Iterable[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    """The same samples, each piece of them held against the first; labels as int64."""
    first: Array | None = None
    start = 0
    for some_x, some_y in samples:
        x, y = np.asarray(some_x), np.asarray(some_y)
        place = f"the samples from number {start} on"
        check_numbers(x.dtype, x.shape, place)
        first = x[:1] if first is None else first
        if (x.shape[1:], x.dtype) != (first.shape[1:], first.dtype):
            raise ConfigFailure(
                f"{place} are {x.dtype} {x.shape[1:]}, but those before {first.dtype} "
                f"{first.shape[1:]}; give all samples one type and shape"
            )
        check_finite(x, np.arange(start, start + len(x)), "x")
        yield x, checked_labels(y, len(x), f"the labels of {place}")
        start += len(x)


def _regrouped(
    samples: Iterable[tuple[Array, Array]], shard_bytes: int
) -> Iterator[tuple[Array, Array]]:
    """The same samples, as many at a time as make a shard."""
    xs: list[Array] = []
    ys: list[Array] = []
    for x, y in samples:
        per_shard = max(1, shard_bytes // (x.nbytes // len(x)))
        xs.append(x)
        ys.append(y)
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
