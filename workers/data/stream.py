"""Samples from shards that fit neither in memory nor, all at once, on the node's disk.

An epoch's order depends on the seed and the epoch alone: the shards are permuted, and the samples
within a window of a few of them. So every global batch is the same for any number of workers, a
sample is seen once in an epoch whatever is stopped and resumed, and reads stay within a few files.
The price: every rank opens every shard once in an epoch. Letters: N samples, B of a batch.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.contract.data_spec import Scale, StreamData
from workers.contract.outcome import ConfigFailure
from workers.contract.paths import join
from workers.data.divide import Parts, check_finite
from workers.data.node_cache import open_copy
from workers.data.open_shards import OpenShards
from workers.data.order import epoch_order
from workers.data.part import rows_at_once
from workers.data.scaling import Scaling
from workers.data.seeds import derived_seed
from workers.data.shards import INDEX, PARTS, Index, parsed
from workers.data.sources import BYTE_LEVELS, Places

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stream:
    """One part of a stream."""

    url: str
    index: Index
    scaling: Scaling
    window: int  # shards whose samples are mixed
    device: torch.device
    files: OpenShards
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
        """Fetch and check what comes in a thread, a window ahead of what is asked for."""
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
    files = OpenShards(url, index, open_max=2 * window, ahead=window)
    as_stored = Scaling.from_range(0.0, 1.0)
    return Stream(url, index, as_stored, window, torch.device("cpu"), files)


def _scaling(train: Stream, scale: Scale) -> Scaling:
    """What the recipe says, by what was counted when the training part was written."""
    if scale == "standardize":
        return Scaling.from_moments(*train.files.moments())
    is_bytes = scale == "unit" and train.index.dtype == "uint8"
    return Scaling.from_range(0.0, BYTE_LEVELS if is_bytes else 1.0)
