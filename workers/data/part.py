"""Samples of one part of the data, asked for by their numbers, wherever they lie.

Whatever is asked of a sample follows from its number and the epoch alone: not from the rank that
asks, nor from what was asked before. So any step can be resumed from its number, and a batch is the
same for any number of workers. Letters: N samples of the part, B of a batch.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from workers.data.order import epoch_order

ROWS_AT_ONCE_MAX = 4096
NUMBERS_AT_ONCE = 2**22  # 16 MiB: a net's activations are some hundred times its input


def rows_at_once(shape: Sequence[int]) -> int:
    """Return how many samples of a shape a pass over all of them takes at a time."""
    return max(1, min(ROWS_AT_ONCE_MAX, NUMBERS_AT_ONCE // max(1, math.prod(shape))))


class Part(Protocol):
    """One part of the data."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (V,) for a vector, (C, H, W) for an image, (T, F) for a sequence."""

    @property
    def changes(self) -> bool:
        """Whether a sample looks otherwise in each epoch; what is computed of it can't be kept."""

    def __len__(self) -> int: ...

    def digest(self) -> str:
        """Return a hash of all that decides on the samples; other samples have another one."""

    def order(self, seed: int, stage_index: int, epoch: int) -> Tensor:
        """Return all numbers in the order of an epoch, (N,) int64; the same on every rank."""

    def expect(self, batches: Iterator[Tensor], epoch: int) -> None:
        """Hear which batches of an epoch will be asked for next, to read ahead; only a hint.

        The iterator is taken from as far as is read ahead; the next call replaces it.
        """

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return some samples as they look in an epoch, (B, ...) float32 on the part's device."""

    def labels(self, indices_B: Tensor) -> Tensor:
        """Return their labels, (B,) int64 on the part's device."""

    def passes(self) -> Iterator[Tensor]:
        """Yield all samples in order, some at a time, as they are stored: for statistics."""

    def to(self, device: torch.device) -> "Part":
        """Return the part with its samples on a device."""

    def close(self) -> None:
        """End the processes that read ahead; the next `expect` starts new ones."""


@dataclass(frozen=True)
class InMemory:
    """Samples that are there as one tensor, as they shall be seen."""

    x_N: Tensor  # (N, ...) float32
    y_N: Tensor  # int64
    changes = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.x_N.shape[1:])

    def __len__(self) -> int:
        return len(self.y_N)

    def digest(self) -> str:
        """Return a hash of the samples themselves."""
        hashed = hashlib.sha256(repr(tuple(self.x_N.shape)).encode())
        for x_B in self.passes():
            hashed.update(x_B.cpu().numpy().tobytes())
        return hashed.hexdigest()

    def order(self, seed: int, stage_index: int, epoch: int) -> Tensor:
        """Return one permutation, on the device of the samples."""
        return epoch_order(len(self), seed, stage_index, epoch).to(self.x_N.device)

    def expect(self, batches: Iterator[Tensor], epoch: int) -> None:
        """Do nothing: all is there."""

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return some samples, (B, ...)."""
        return self.x_N.index_select(0, indices_B)

    def labels(self, indices_B: Tensor) -> Tensor:
        """Return their labels, (B,)."""
        return self.y_N.index_select(0, indices_B)

    def passes(self) -> Iterator[Tensor]:
        """Yield all samples in order, some at a time."""
        yield from torch.split(self.x_N, rows_at_once(self.shape))

    def to(self, device: torch.device) -> "InMemory":
        """Return the samples on a device."""
        return InMemory(self.x_N.to(device), self.y_N.to(device))

    def close(self) -> None:
        """Do nothing: there are no processes."""


@dataclass(frozen=True)
class Around:
    """Another part, whose samples a subclass shows otherwise; all else is that part's."""

    part: Part

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.part.shape

    @property
    def changes(self) -> bool:
        """Whether those of the part do."""
        return self.part.changes

    def __len__(self) -> int:
        return len(self.part)

    def order(self, seed: int, stage_index: int, epoch: int) -> Tensor:
        """Return that of the part."""
        return self.part.order(seed, stage_index, epoch)

    def expect(self, batches: Iterator[Tensor], epoch: int) -> None:
        """Tell the part."""
        self.part.expect(batches, epoch)

    def labels(self, indices_B: Tensor) -> Tensor:
        """Return those of the part, (B,)."""
        return self.part.labels(indices_B)

    def to(self, device: torch.device) -> Self:
        """Return the same around the part on a device."""
        return replace(self, part=self.part.to(device))

    def close(self) -> None:
        """Tell the part."""
        self.part.close()


@dataclass(frozen=True)
class Flat(Around):
    """The samples of a part as vectors."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one vector."""
        return (math.prod(self.part.shape),)

    def digest(self) -> str:
        """Return another hash than the part has."""
        return hashlib.sha256(f"flat {self.part.digest()}".encode()).hexdigest()

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return some vectors, (B, V)."""
        return self.part.rows(indices_B, epoch).flatten(1)

    def passes(self) -> Iterator[Tensor]:
        """Yield all vectors in order, some at a time."""
        for x_B in self.part.passes():
            yield x_B.flatten(1)
