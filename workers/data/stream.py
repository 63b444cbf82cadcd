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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.contract.data_spec import StreamData
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.contract.paths import join
from workers.data.node_cache import local_copy
from workers.data.order import epoch_order
from workers.data.part import rows_at_once
from workers.data.seeds import derived_seed
from workers.data.shards import INDEX, LABELS, Index, Shard, parsed, sha256_of
from workers.data.sources import BYTE_LEVELS, CLASSES_MAX, Places

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stream:
    """One part of a stream."""

    url: str
    index: Index
    is_unit: bool  # bytes are divided by 255
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
        """Return a hash of the index, which has those of all files."""
        return hashlib.sha256(f"{self.is_unit} {self.index.text()}".encode()).hexdigest()

    def order(self, seed: int, stage_index: int, epoch: int) -> Tensor:
        """Return the numbers window by window, (N,) int64, on the CPU: 8 bytes for each sample."""
        shards = epoch_order(
            len(self.index.shards), derived_seed(seed, "shards"), stage_index, epoch
        ).tolist()
        starts = self._starts()
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
            ConfigFailure: a shard is missing.
            StorageFailure: a shard is damaged, or storage can't be read.
        """
        indices = indices_B.cpu().numpy()
        starts = np.asarray(self._starts())
        shards = np.searchsorted(starts, indices, side="right") - 1
        x = np.empty((len(indices), *self.shape), np.dtype(self.index.dtype))
        for shard in np.unique(shards):
            places = np.flatnonzero(shards == shard)
            x[places] = self.files.opened(int(shard))[indices[places] - starts[shard]]
        return self._shown(x)

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

    def _shown(self, x: Array) -> Tensor:
        x_B = torch.from_numpy(x).to(self.device).float()
        return x_B.div_(BYTE_LEVELS) if self.is_unit and x.dtype == np.uint8 else x_B

    def _starts(self) -> list[int]:
        """The number of each shard's first sample, and N."""
        starts = [0]
        for shard in self.index.shards:
            starts.append(starts[-1] + shard.num_samples)
        return starts

    def _shards_of(self, batches: Iterator[Tensor]) -> Iterator[int]:
        """The shards that batches need, each once, in the order in which they do."""
        starts, known = torch.tensor(self._starts()), set[int]()
        for indices_B in batches:
            shards = torch.searchsorted(starts, indices_B.cpu(), right=True) - 1
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
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if self._reader is not None:
            self._reader.arrived(number)
        shard = self.index.shards[number]
        found = self._mapped(shard.name, shard.sha256, (shard.num_samples, *self.index.shape))
        self._open[number] = found
        while len(self._open) > self.open_max:
            self._open.popitem(last=False)
        return found

    def labels(self) -> Array:
        """Return the labels of all samples, mapped from disk, (N,)."""
        if self._labels is None:
            shape = (self.index.num_samples,)
            self._labels = self._mapped(LABELS, self.index.labels_sha256, shape)
        return self._labels

    def read_ahead(self, shards: Iterator[int]) -> None:
        """See to it in a thread that these are on the node's disk before they are asked for."""
        self.close_reader()
        if "://" in self.url and not self.url.startswith("file://"):
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

    def _mapped(self, name: str, sha256: str, shape: tuple[int, ...]) -> Array:
        path = local_copy(join(self.url, name))
        place = f"{self.url}/{name}"
        if sha256_of(path) != sha256:
            raise StorageFailure(f"{place} is damaged: its hash is not that of the index")
        try:
            found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ConfigFailure(f"data.path: {place} is no .npy file: {error}") from error
        if found.shape != shape:
            raise ConfigFailure(
                f"data.path: {place} has the shape {found.shape}, the index says {shape}"
            )
        return found


class _ReadAhead:
    """A thread that fetches shards, never more than some ahead of what was asked for."""

    def __init__(
        self, url: str, shards: tuple[Shard, ...], coming: Iterator[int], ahead: int
    ) -> None:
        self._url = url
        self._shards = shards
        self._coming = coming
        self._may_fetch = threading.Semaphore(ahead)
        self._fetched: set[int] = set()
        self._is_over = False
        threading.Thread(target=self._run, name="read-ahead", daemon=True).start()

    def arrived(self, number: int) -> None:
        """Hear that a shard is asked for: one more may be fetched."""
        if number in self._fetched:
            self._fetched.discard(number)
            self._may_fetch.release()

    def end(self) -> None:
        """Fetch no more."""
        self._is_over = True
        self._may_fetch.release()

    def _run(self) -> None:
        for number in self._coming:
            self._may_fetch.acquire()
            if self._is_over:
                return
            self._fetched.add(number)
            try:
                local_copy(join(self._url, self._shards[number].name))
            except Exception:  # noqa: BLE001  # whoever opens it meets the same, and says it
                return


def open_stream(spec: StreamData, places: Places) -> tuple[Stream, Stream | None, Stream | None]:
    """Return the train, validation and test parts of a stream; only train must be there.

    Raises:
        ConfigFailure: there is no stream, or its parts do not fit together.
        StorageFailure: storage can't be read.
    """
    url = places.url(spec.path)
    train = _part(join(url, "train"), spec)
    if train is None:
        raise ConfigFailure(
            f"data.path: {url} has no train/{INDEX}; write it with `strata data shard`"
        )
    others = [_part(join(url, name), spec) for name in ("validation", "test")]
    for other in others:
        if other is not None and other.shape != train.shape:
            raise ConfigFailure(
                f"data.path: a sample has the shape {train.shape} in {train.url} and {other.shape} "
                f"in {other.url}; they must agree"
            )
    return train, others[0], others[1]


def _part(url: str, spec: StreamData) -> Stream | None:
    try:
        path: Path = local_copy(join(url, INDEX))
    except ConfigFailure:
        return None
    index = parsed(path.read_text(), f"{url}/{INDEX}")
    if index.num_classes > CLASSES_MAX:
        raise ConfigFailure(
            f"data.path: {url} has {index.num_classes} classes, {CLASSES_MAX} are the most"
        )
    window = spec.shuffle_shards
    files = _Files(url, index, open_max=2 * window, ahead=window)
    return Stream(url, index, spec.scale == "unit", window, torch.device("cpu"), files)
