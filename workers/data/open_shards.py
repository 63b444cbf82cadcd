"""The files of a stream that a process has open: fetched, held against their hashes, mapped.

What comes next is fetched and hashed by a thread, so that training waits for neither.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.contract.paths import join
from workers.data.node_cache import stamp_of, with_copy
from workers.data.shards import LABELS, MOMENTS, Index, sha256_of
from workers.data.sources import map_npy

Array = npt.NDArray[Any]


@dataclass
class OpenShards:
    """The shards of one part; those used least lately are closed first.

    Not for several threads, but for the one that reads ahead: it opens nothing, it only sees to it
    that a file is there and is what it was.
    """

    url: str
    index: Index
    open_max: int
    ahead: int  # shards
    _open: "OrderedDict[int, Array]" = field(default_factory=OrderedDict)
    _checked: set[tuple[str, int]] = field(default_factory=set)  # files that have their hash
    _labels: Array | None = None
    _reader: "_ReadAhead | None" = None

    def __getstate__(self) -> dict[str, Any]:
        """What goes to a process that reads ahead: it opens its files itself."""
        fresh: dict[str, Any] = {
            "_open": OrderedDict(),
            "_checked": set(),
            "_labels": None,
            "_reader": None,
        }
        return {**vars(self), **fresh}

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
        """See to it in a thread that these are here and whole before they are asked for."""
        self.close_reader()
        self._reader = _ReadAhead(self._fetch, shards, self.ahead)

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
            self._check(path, sha256)
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

    def _fetch(self, number: int) -> None:
        shard = self.index.shards[number]
        with_copy(join(self.url, shard.name), lambda path: self._check(path, shard.sha256))

    def _check(self, path: Path, sha256: str) -> None:
        """Hold a file against its hash; once, for its bytes take longer than a batch."""
        known = (stamp_of(path), path.stat().st_ino)  # another one once it is fetched again
        if known in self._checked:
            return
        if sha256_of(path) != sha256:
            raise _Damaged
        self._checked.add(known)


class _Damaged(Exception):
    """A file's hash is not that of the index."""


class _ReadAhead:
    """A thread that fetches shards, never more than some ahead of what was asked for."""

    def __init__(self, fetch: Callable[[int], None], coming: Iterator[int], ahead: int) -> None:
        self._fetch = fetch
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
                self._fetch(number)
