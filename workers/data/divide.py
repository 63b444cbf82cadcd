"""Divides samples into train, validation and test, and checks that they fit together."""

from typing import Any, NamedTuple

import numpy as np
import torch

from workers.contract.data_spec import (
    CustomData,
    DigitsData,
    IdxData,
    NpyData,
    NpzData,
    TableData,
)
from workers.contract.outcome import ConfigFailure
from workers.data.part import InMemory, Part
from workers.data.scaling import Floats, Scaling
from workers.data.sources import CLASSES_MAX, Array, Stored
from workers.data.split import Indices, stratified

GREY_DIMENSIONS = 3  # (N, H, W)

Divisible = DigitsData | IdxData | NpzData | NpyData | TableData | CustomData


class Parts(NamedTuple):
    """What a source gives."""

    train: Part
    validation: Part | None
    test: Part | None
    num_classes: int


class Shares(NamedTuple):
    """The numbers of the samples of each part, sorted; test is empty where it is another source."""

    train: Indices
    validation: Indices
    test: Indices


def shares(y: Indices, spec: Divisible, has_own_test: bool) -> Shares:
    """Return which samples belong to which part.

    Raises:
        ConfigFailure: none is left to train on.
    """
    numbers, held = np.arange(len(y)), np.empty(0, np.int64)
    if not has_own_test and not isinstance(spec, IdxData) and spec.test_fraction > 0:
        numbers, held = stratified(y, spec.test_fraction, spec.split_seed, "test")
    kept, other = stratified(y[numbers], spec.validation_fraction, spec.split_seed, "validation")
    if len(kept) == 0:
        raise ConfigFailure("data: no sample is left to train on; lower the fractions held out")
    return Shares(numbers[kept], numbers[other], held)


def divided(stored: Stored, spec: Divisible) -> Parts:
    """Divide and scale what is in memory.

    Raises:
        ConfigFailure: its arrays do not fit together.
    """
    sequences = isinstance(spec, NpzData | CustomData) and spec.sequences
    place = f"data: {stored.place}"
    x = _features(stored.x, f"{place}: the features", sequences)
    y = checked_labels(stored.y, len(x), f"{place}: the labels")
    x_test = y_test = None
    if stored.x_test is not None and stored.y_test is not None:
        x_test = _features(stored.x_test, f"{place}: the test part's features", sequences)
        y_test = checked_labels(stored.y_test, len(x_test), f"{place}: the test part's labels")
        check_shapes(x.shape[1:], x_test.shape[1:])
    train, validation, test = shares(y, spec, y_test is not None)
    if x_test is None and len(test):
        x_test, y_test = x[test], y[test]
    labels = y if y_test is None else np.concatenate([y, y_test])
    scaling = Scaling.fitted(x[train], spec.scale, stored.largest)
    return Parts(
        train=_part(scaling, x[train], y[train]),
        validation=_part(scaling, x[validation], y[validation]) if len(validation) else None,
        test=None if x_test is None or y_test is None else _part(scaling, x_test, y_test),
        num_classes=int(labels.max()) + 1,
    )


def check_shapes(train: tuple[int, ...], test: tuple[int, ...]) -> None:
    """Refuse a test part of other samples.

    Raises:
        ConfigFailure: the shapes differ.
    """
    if train != test:
        raise ConfigFailure(
            f"data: a sample has the shape {train} in the training part and {test} in the test "
            "part; they must agree"
        )


def _part(scaling: Scaling, x_N: Floats, y_N: Array) -> InMemory:
    return InMemory(torch.from_numpy(scaling.applied(x_N)), torch.from_numpy(y_N))


def _features(x: Array, what: str, sequences: bool) -> Floats:
    """Numbers (N, ...) as they are seen."""
    check_numbers(x.dtype, x.shape, what)
    features = x.astype(np.float32)
    check_finite(features, np.arange(len(features)), what)
    return features.reshape(len(features), *sample_shape(features.shape, sequences))


def check_numbers(dtype: np.dtype[Any], shape: tuple[int, ...], what: str) -> None:
    """Refuse features that are not numbers, or none.

    Raises:
        ConfigFailure: they are not.
    """
    if len(shape) < 1 or dtype.kind not in "buif" or 0 in shape:
        raise ConfigFailure(
            f"{what} must be numbers of shape (n, ...), at least one, not {dtype} {shape}"
        )


def check_finite(x_B: Array, numbers_B: Indices, what: str) -> None:
    """Refuse samples (B, ...) with NaN or infinity; `numbers_B` are theirs in the source.

    Raises:
        ConfigFailure: one holds such; the first is named.
    """
    # One sum is much faster than a look at each number, and finite ones rarely overflow it.
    with np.errstate(over="ignore"):
        if x_B.dtype.kind != "f" or np.isfinite(x_B.sum()):
            return
    is_finite_B = np.isfinite(x_B).reshape(len(x_B), -1).all(axis=1)
    if not is_finite_B.all():
        raise ConfigFailure(
            f"{what}: sample {numbers_B[np.argmin(is_finite_B)]}, counted from 0, holds NaN or "
            "infinity; mend or remove it"
        )


def sample_shape(shape: tuple[int, ...], sequences: bool) -> tuple[int, ...]:
    """Return the shape in which a sample of (n, ...) is seen.

    Grey images (n, H, W) get the one channel that they have, unless they are sequences (n, T, F);
    single numbers (n,) become vectors.
    """
    if len(shape) == 1:
        return (1,)
    is_grey = len(shape) == GREY_DIMENSIONS and not sequences
    return (1, *shape[1:]) if is_grey else shape[1:]


def checked_labels(y: Array, num_samples: int, what: str) -> Indices:
    """Return labels as int64, (N,).

    Raises:
        ConfigFailure: they are no numbers of classes, one for each sample.
    """
    if y.dtype.kind not in "bui" or y.shape != (num_samples,) or num_samples == 0:
        raise ConfigFailure(
            f"{what} must be integers of shape ({num_samples},), not {y.dtype} {y.shape}; give the "
            "class of each sample, numbered from 0"
        )
    if y.min() < 0 or y.max() >= CLASSES_MAX:
        raise ConfigFailure(
            f"{what} must lie in 0 ... {CLASSES_MAX - 1}, but go from {y.min()} to {y.max()}; "
            "number the classes from 0"
        )
    return y.astype(np.int64)
