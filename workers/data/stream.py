"""Samples from shards that fit neither in memory nor, all at once, on the node's disk.

An epoch's order depends on the seed and the epoch alone: the shards are permuted, and the samples
within a window of a few of them. So every global batch is the same for any number of workers, a
sample is seen once in an epoch whatever is stopped and resumed, and reads stay within a few files.
The price: every rank opens every shard once in an epoch. Letters: N samples, B of a batch.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.contract.data_spec import Scale, StreamData
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.contract.paths import join
from workers.data.divide import Parts, check_finite
from workers.data.node_cache import is_far, open_copy, with_copy
from workers.data.order import epoch_order
from workers.data.part import rows_at_once
from workers.data.scaling import Scaling
from workers.data.seeds import derived_seed
from workers.data.shards import INDEX, LABELS, MOMENTS, PARTS, Index, Shard, parsed, sha256_of
from workers.data.sources import BYTE_LEVELS, Places, map_npy

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stream:
    """One part of a stream."""

    url: str
    index: Index
    scaling: Scaling
    window: int  # shards whose samples are mixed
    device: torch.device
    files: "_Files"
    changes = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.index.shape

    def __len__(self) -> int:
        return self.index.num_samples

    def digest(self) -> str:
        """Return a hash of the index, which has those of all files, and of the scaling."""
        hashed = hashlib.sha256(self.index.text().encode())
        for array in (self.scaling.shift, self.scaling.divisor):
            hashed.update(array.tobytes())
        return hashed.hexdigest()

    def order(self, seed: int, stage_index: int, epoch: int) -> Tensor:
        """Return the numbers window by window, (N,) int64, on the CPU: 8 bytes for each sample."""
        shards = epoch_order(
            len(self.index.shards), derived_seed(seed, "shards"), stage_index, epoch
        ).tolist()
        starts = self.starts.tolist()
        pieces = []
        for k in range(0, len(shards), self.window):
            mixed = torch.cat(
                [torch.arange(starts[one], starts[one + 1]) for one in shards[k : k + self.window]]
            )
            within = derived_seed(seed, "window", k)
            pieces.append(mixed[epoch_order(len(mixed), within, stage_index, epoch)])
        return torch.cat(pieces)

    def expect(self, batches: Iterator[Tensor], epoch: int) -> None:
        """Fetch what comes in a thread, a window ahead of what is asked for."""
        self.files.read_ahead(self._shards_of(batches))

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return some samples, (B, ...).

        Raises:
            ConfigFailure: a shard is missing, or a sample holds NaN or infinity.
            StorageFailure: a shard is damaged, or storage can't be read.
        """
        indices = indices_B.cpu().numpy()
        shards = np.searchsorted(self.starts, indices, side="right") - 1
        x = np.empty((len(indices), *self.shape), np.dtype(self.index.dtype))
        for shard in np.unique(shards):
            places = np.flatnonzero(shards == shard)
            x[places] = self.files.opened(int(shard))[indices[places] - self.starts[shard]]
        check_finite(x, indices, f"data: {self.url}")
        return torch.from_numpy(self.scaling.applied(x)).to(self.device)

    def labels(self, indices_B: Tensor) -> Tensor:
        """Return their labels, (B,)."""
        y_B = self.files.labels()[indices_B.cpu().numpy()]
        return torch.from_numpy(y_B).to(self.device)

    def passes(self) -> Iterator[Tensor]:
        """Yield all samples in order, some at a time."""
        for indices_B in torch.split(torch.arange(len(self)), rows_at_once(self.shape)):
            yield self.rows(indices_B, 0)

    def to(self, device: torch.device) -> "Stream":
        """Return the part with its samples on a device, from when they are read."""
        return replace(self, device=device)

    def close(self) -> None:
        """Let go of all files."""
        self.files.close()

    @cached_property
    def starts(self) -> Array:
        """The number of each shard's first sample, and N."""
        return np.cumsum([0, *(shard.num_samples for shard in self.index.shards)])

    def _shards_of(self, batches: Iterator[Tensor]) -> Iterator[int]:
        """The shards that batches need, each once, in the order in which they do."""
        known = set[int]()
        for indices_B in batches:
            shards = np.searchsorted(self.starts, indices_B.cpu().numpy(), side="right") - 1
            for shard in sorted(set(shards.tolist()) - known):
                known.add(shard)
                yield shard


@dataclass
class _Files:
    """The shards that a process has open, the least lately used closed first.

    A shard is held against its hash when it is opened. Not for several threads, but for the one
    that reads ahead: it opens nothing, it only sees to it that a file is there.
    """

    url: str
    index: Index
    open_max: int
    ahead: int  # shards
    _open: "OrderedDict[int, Array]" = field(default_factory=OrderedDict)
    _labels: Array | None = None
    _reader: "_ReadAhead | None" = None

    def __getstate__(self) -> dict[str, Any]:
        """What goes to a process that reads ahead: it opens its files itself."""
        return {**vars(self), "_open": OrderedDict(), "_labels": None, "_reader": None}

    def opened(self, number: int) -> Array:
        """Return the samples of a shard, mapped from disk, (n, ...)."""
        if self._reader is not None:
            self._reader.hear_asked(number)
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = self.index.shards[number]
        shape = (shard.num_samples, *self.index.shape)
        found = self._mapped(shard.name, shard.sha256, shape, self.index.dtype)
        self._open[number] = found
        while len(self._open) > self.open_max:
            self._open.popitem(last=False)
        return found

    def labels(self) -> Array:
        """Return the labels of all samples, mapped from disk, (N,)."""
        if self._labels is None:
            shape = (self.index.num_samples,)
            self._labels = self._mapped(LABELS, self.index.labels_sha256, shape, "int64")
        return self._labels

    def moments(self) -> Array:
        """Return mean and standard deviation of the part's features, (2, ...) float64."""
        return self._mapped(MOMENTS, self.index.moments_sha256, (2, *self.index.shape), "float64")

    def read_ahead(self, shards: Iterator[int]) -> None:
        """See to it in a thread that these are on the node's disk before they are asked for."""
        self.close_reader()
        if is_far(self.url):
            self._reader = _ReadAhead(self.url, self.index.shards, shards, self.ahead)

    def close_reader(self) -> None:
        """End the thread."""
        if self._reader is not None:
            self._reader.end()
            self._reader = None

    def close(self) -> None:
        """End the thread, and close all files."""
        self.close_reader()
        self._open.clear()
        self._labels = None

    def _mapped(self, name: str, sha256: str, shape: tuple[int, ...], dtype: str) -> Array:
        url = join(self.url, name)

        def opened(path: Path) -> Array:
            if sha256_of(path) != sha256:
                raise _Damaged
            return map_npy(path, f"data.path: {url}")

        try:
            try:
                found = with_copy(url, opened)
            except _Damaged:  # it may be the node's copy alone
                found = with_copy(url, opened, anew=True)
        except _Damaged as error:
            raise StorageFailure(
                f"{url} is damaged: its hash is not that of the index; write the stream anew"
            ) from error
        if found is None:
            raise ConfigFailure(f"data.path: there is no file {url}; write the stream anew")
        if (found.shape, str(found.dtype)) != (shape, dtype):
            raise ConfigFailure(
                f"data.path: {url} is {found.dtype} {found.shape}, but the index says {dtype} "
                f"{shape}; write the stream anew"
            )
        return found


class _Damaged(Exception):
    """A file's hash is not that of the index."""


class _ReadAhead:
    """A thread that fetches shards, never more than some ahead of what was asked for."""

    def __init__(
        self, url: str, shards: tuple[Shard, ...], coming: Iterator[int], ahead: int
    ) -> None:
        self._url = url
        self._shards = shards
        self._coming = coming
        self._ahead = ahead
        self._asked: set[int] = set()
        self._waiting: set[int] = set()  # fetched, and not yet asked for
        self._is_over = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="read-ahead", daemon=True).start()

    def hear_asked(self, number: int) -> None:
        """Hear that a shard is asked for: it is not ahead any more."""
        with self._changed:
            self._asked.add(number)
            self._waiting.discard(number)
            self._changed.notify()

    def end(self) -> None:
        """Fetch no more."""
        with self._changed:
            self._is_over = True
            self._changed.notify()

    def _run(self) -> None:
        for number in self._coming:
            with self._changed:
                self._changed.wait_for(lambda: self._is_over or len(self._waiting) < self._ahead)
                if self._is_over:
                    return
                if number in self._asked:
                    continue
                self._waiting.add(number)
            with suppress(Exception):  # whoever opens it meets the same, and says it
                with_copy(join(self._url, self._shards[number].name), Path.exists)


def open_stream(spec: StreamData, places: Places) -> Parts:
    """Return the parts of a stream; only train must be there.

    Raises:
        ConfigFailure: there is no stream, or its parts do not fit together.
        StorageFailure: storage can't be read.
    """
    url = places.url(spec.path)
    train, validation, test = (_part(join(url, name), spec.shuffle_shards) for name in PARTS)
    if train is None:
        raise ConfigFailure(
            f"data.path: {url} has no train/{INDEX}; write it with `strata data shard`"
        )
    others = [part for part in (validation, test) if part is not None]
    for other in others:
        if other.shape != train.shape:
            raise ConfigFailure(
                f"data.path: a sample has the shape {train.shape} in {train.url} and {other.shape} "
                f"in {other.url}; they must agree"
            )
    scaling = _scaling(train, spec.scale)
    return Parts(
        train=replace(train, scaling=scaling),
        validation=None if validation is None else replace(validation, scaling=scaling),
        test=None if test is None else replace(test, scaling=scaling),
        num_classes=max(part.index.num_classes for part in (train, *others)),
    )


def _part(url: str, window: int) -> Stream | None:
    """One part as it is stored; None where there is none."""
    place = join(url, INDEX)
    stream = open_copy(place)
    if stream is None:
        return None
    with stream:
        index = parsed(stream.read(), place)
    files = _Files(url, index, open_max=2 * window, ahead=window)
    as_stored = Scaling.from_range(0.0, 1.0)
    return Stream(url, index, as_stored, window, torch.device("cpu"), files)


def _scaling(train: Stream, scale: Scale) -> Scaling:
    """What the recipe says, by what was counted when the training part was written."""
    if scale == "standardize":
        return Scaling.from_moments(*train.files.moments())
    is_bytes = scale == "unit" and train.index.dtype == "uint8"
    return Scaling.from_range(0.0, BYTE_LEVELS if is_bytes else 1.0)
