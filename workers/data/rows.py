"""Samples that are read row by row from something larger than memory: a .npy file, or one's own.

Letters: N samples of a part, B of a batch.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.contract.data_spec import CustomData, NpyData
from workers.contract.outcome import ConfigFailure
from workers.data.divide import (
    Parts,
    check_finite,
    check_numbers,
    check_shapes,
    checked_labels,
    sample_shape,
    shares,
)
from workers.data.node_cache import stamp_of, with_copy
from workers.data.order import epoch_order
from workers.data.part import rows_at_once
from workers.data.scaling import Scaling
from workers.data.sources import BYTE_LEVELS, Places, map_npy, no_labels

Array = npt.NDArray[Any]
Numbers = npt.NDArray[np.int64]


class Rows(Protocol):
    """What can be asked for some of its rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""

    def __getitem__(self, numbers: Numbers) -> Any:
        """Return the rows of these numbers, something that NumPy can make an array of."""


class Mapped:
    """A .npy file by memory map; each process that gets one maps it anew.

    Args:
        url: of the file.

    Raises:
        ConfigFailure: there is no such file, or it is none of numbers.
        StorageFailure: storage can't be read.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._array: Array | None
        self._array, self.stamp = _mapped(url)

    @property
    def array(self) -> Array:
        """The map."""
        if self._array is None:
            self._array, stamp = _mapped(self.url)
            if stamp != self.stamp:
                raise ConfigFailure(f"data: {self.url} changed while it was read; start anew")
        return self._array

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its numbers."""
        return self.array.dtype

    def __getitem__(self, numbers: Numbers) -> Array:
        rows: Array = self.array[numbers]
        return rows

    def __getstate__(self) -> dict[str, Any]:
        """Without the map, which would travel as all its values."""
        return {**vars(self), "_array": None}


def _mapped(url: str) -> tuple[Array, str]:
    """A file's map, and a text that changes with its content."""
    mapped = with_copy(url, lambda path: (map_npy(path, f"data: {url}"), stamp_of(path)))
    if mapped is None:
        raise ConfigFailure(f"data: there is no file {url}; check the path")
    return mapped


@dataclass(frozen=True)
class ByRow:
    """Some rows of a source, scaled when they are read."""

    source: Rows
    numbers_N: Numbers  # of the source's rows
    y_N: Tensor  # int64
    scaling: Scaling
    shape: tuple[int, ...]
    stamp: str  # changes with the source's content
    place: str  # the source, as messages name it
    changes = False

    def __len__(self) -> int:
        return len(self.numbers_N)

    def digest(self) -> str:
        """Return a hash of the stamp, of which rows these are, and of their scaling."""
        hashed = hashlib.sha256(self.stamp.encode())
        for array in (self.numbers_N, self.scaling.shift, self.scaling.divisor):
            hashed.update(array.tobytes())
        return hashed.hexdigest()

    def order(self, seed: int, stage_index: int, epoch: int) -> Tensor:
        """Return one permutation."""
        return epoch_order(len(self), seed, stage_index, epoch).to(self.y_N.device)

    def expect(self, batches: Iterator[Tensor], epoch: int) -> None:
        """Do nothing: `data.workers` reads ahead."""

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return some samples, (B, ...).

        Raises:
            ConfigFailure: one holds NaN or infinity.
        """
        numbers_B = self.numbers_N[indices_B.cpu().numpy()]
        x_B = read_rows(self.source, numbers_B, self.shape, self.place)
        return torch.from_numpy(self.scaling.applied(x_B)).to(self.y_N.device)

    def labels(self, indices_B: Tensor) -> Tensor:
        """Return their labels, (B,)."""
        return self.y_N.index_select(0, indices_B.to(self.y_N.device))

    def passes(self) -> Iterator[Tensor]:
        """Yield all samples in order, some at a time."""
        for indices_B in torch.split(torch.arange(len(self)), rows_at_once(self.shape)):
            yield self.rows(indices_B, 0)

    def to(self, device: torch.device) -> "ByRow":
        """Return the part with its samples on a device, from when they are read."""
        return replace(self, y_N=self.y_N.to(device))

    def close(self) -> None:
        """Do nothing: there are no processes."""


def read_rows(
    source: Rows, numbers_B: Numbers, shape: tuple[int, ...], place: str
) -> npt.NDArray[Any]:
    """Return some rows of a source, (B, ...).

    Raises:
        ConfigFailure: one holds NaN or infinity.
    """
    x_B = np.asarray(source[numbers_B]).reshape(len(numbers_B), *shape)
    check_finite(x_B, numbers_B, place)
    return x_B


def pieces(source: Rows, numbers_N: Numbers, shape: tuple[int, ...], place: str) -> Iterator[Array]:
    """Yield rows of a source some at a time, (B, ...)."""
    at_once = rows_at_once(shape)
    for start in range(0, len(numbers_N), at_once):
        yield read_rows(source, numbers_N[start : start + at_once], shape, place)


def divided_files(spec: NpyData, places: Places) -> Parts:
    """Divide .npy files, which are read by memory map.

    Raises:
        ConfigFailure: a file is missing, none, or does not fit the others.
        StorageFailure: storage can't be read.
    """
    x, y, x_test, y_test = (
        None if name is None else Mapped(places.url(name))
        for name in (spec.x, spec.y, spec.x_test, spec.y_test)
    )
    assert x is not None
    for features in (x, x_test):
        if features is not None:
            check_numbers(features.dtype, features.shape, f"data: {features.url}: the features")
    labels = no_labels(x.shape) if y is None else np.asarray(y.array)
    own_test = (x_test, np.asarray(y_test.array)) if x_test and y_test else None
    stamp = "\n".join(one.stamp for one in (x, y, x_test, y_test) if one is not None)
    return divided_by_row(x, labels, own_test, spec, stamp)


def divided_by_row(
    x: Rows, y: Array, test: tuple[Rows, Array] | None, spec: NpyData | CustomData, stamp: str
) -> Parts:
    """Divide samples that are read row by row.

    Args:
        x: features (n, ...).
        y: labels (n,).
        test: those of a test part of their own.
        spec: the recipe's.
        stamp: changes with the content.

    Raises:
        ConfigFailure: they do not fit together.
    """
    place = f"data: {spec.x if isinstance(spec, NpyData) else spec.entry}"
    shape = sample_shape(tuple(x.shape), spec.sequences)
    labels = checked_labels(y, x.shape[0], f"{place}: the labels")
    train, validation, held = shares(labels, spec, test is not None)
    largest = BYTE_LEVELS if getattr(x, "dtype", None) == np.uint8 else None
    scaling = Scaling.fitted_to_pieces(pieces(x, train, shape, place), spec.scale, largest)

    def part(source: Rows, numbers: Numbers, y_N: Numbers) -> ByRow | None:
        if len(numbers) == 0:
            return None
        y_B = torch.from_numpy(y_N[numbers])
        return ByRow(source, numbers, y_B, scaling, shape, stamp, place)

    if test is None:
        test_part, num_classes = part(x, held, labels), int(labels.max()) + 1
    else:
        x_test, y_test = test
        check_shapes(shape, sample_shape(tuple(x_test.shape), spec.sequences))
        test_labels = checked_labels(y_test, x_test.shape[0], f"{place}: the test part's labels")
        test_part = part(x_test, np.arange(len(test_labels)), test_labels)
        num_classes = int(max(labels.max(), test_labels.max())) + 1
    trained = part(x, train, labels)
    assert trained is not None, "shares refuses that"
    return Parts(trained, part(x, validation, labels), test_part, num_classes)
