"""The data of a job as the loop uses it: scaled, and divided into up to three parts.

Letters: N samples. A sample keeps its shape: (V,) for a vector, (C, H, W) for an image.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from workers.contract.data_spec import (
    DataSpec,
    DigitsData,
    IdxData,
    ImageFolderData,
    NpzData,
    Scale,
    StreamData,
)
from workers.contract.outcome import ConfigFailure
from workers.data.augment import augmented, normalized
from workers.data.images import load_images
from workers.data.part import Flat, InMemory, Part
from workers.data.processes import prefetched
from workers.data.sources import CLASSES_MAX, Array, Places, read_source
from workers.data.split import stratified

Floats = npt.NDArray[np.float32]

GREY_DIMENSIONS = 3  # (N, H, W)


@dataclass(frozen=True)
class Dataset:
    """Train, validation and test; the last two may be missing."""

    train: Part
    validation: Part | None
    test: Part | None
    num_classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.train.shape

    def flat(self) -> "Dataset":
        """Return the data with every sample as a vector."""
        return self if len(self.shape) == 1 else self._each(Flat)

    def to(self, device: torch.device) -> "Dataset":
        """Return the data on a device."""
        return self._each(lambda part: part.to(device))

    def shown(self, spec: DataSpec, seed: int) -> "Dataset":
        """Return the data as a recipe wants it shown; only the training part is augmented."""
        data = self
        if spec.augment is not None:
            is_unit = spec.scale == "unit"
            data = replace(data, train=augmented(self.train, spec.augment, seed, is_unit))
        if spec.normalize is not None:
            normalize = spec.normalize
            data = data._each(lambda part: normalized(part, normalize))
        if spec.workers > 0:
            data = data._each(lambda part: prefetched(part, spec.workers))
        return data

    def close(self) -> None:
        """End the processes that read ahead."""
        for part in (self.train, self.validation, self.test):
            if part is not None:
                part.close()

    def _each(self, changed: Callable[[Part], Part]) -> "Dataset":
        return replace(
            self,
            train=changed(self.train),
            validation=None if self.validation is None else changed(self.validation),
            test=None if self.test is None else changed(self.test),
        )


def load_dataset(spec: DataSpec, places: Places, seed: int = 0) -> Dataset:
    """Read, check, divide and scale what the recipe names; the same on every rank.

    The test part is held out of the whole by `test_fraction`, unless the source brings its own;
    `validation_fraction` is of what then remains. The job's seed is for the augmentation only.

    Raises:
        ConfigFailure: the source is missing, or its arrays do not fit together.
        StorageFailure: storage can't be read at all.
    """
    if isinstance(spec, ImageFolderData):
        return Dataset(*load_images(spec, places)).shown(spec, seed)
    if isinstance(spec, StreamData):
        from workers.data.stream import open_stream

        train, validation, test = open_stream(spec, places)
        return Dataset(train, validation, test, train.index.num_classes).shown(spec, seed)
    return _in_memory(spec, places).shown(spec, seed)


def _in_memory(spec: DigitsData | IdxData | NpzData, places: Places) -> Dataset:
    stored = read_source(spec, places)
    x, y = _features(stored.x, "x"), _labels(stored.y, stored.x, "y")
    x_test = y_test = None
    if stored.x_test is not None and stored.y_test is not None:
        x_test = _features(stored.x_test, "x_test")
        y_test = _labels(stored.y_test, stored.x_test, "y_test")
        if x_test.shape[1:] != x.shape[1:]:
            raise ConfigFailure(
                f"data: a sample has the shape {x.shape[1:]} in the training part and "
                f"{x_test.shape[1:]} in the test part; they must agree"
            )
    elif not isinstance(spec, IdxData) and spec.test_fraction > 0:
        kept, held = stratified(y, spec.test_fraction, spec.split_seed, "test")
        x, y, x_test, y_test = x[kept], y[kept], x[held], y[held]
    kept, held = stratified(y, spec.validation_fraction, spec.split_seed, "validation")
    if len(kept) == 0:
        raise ConfigFailure("data: no sample is left to train on; lower the fractions held out")
    labels = y if y_test is None else np.concatenate([y, y_test])
    scaling = _Scaling.fitted(x[kept], spec.scale, stored.largest)
    return Dataset(
        train=scaling.part(x[kept], y[kept]),
        validation=scaling.part(x[held], y[held]) if len(held) else None,
        test=None if x_test is None or y_test is None else scaling.part(x_test, y_test),
        num_classes=int(labels.max()) + 1,
    )


@dataclass(frozen=True)
class _Scaling:
    """x -> (x - shift) / divisor, for each feature or for all alike."""

    shift: Floats
    divisor: Floats

    @classmethod
    def fitted(cls, x_N: Floats, scale: Scale, largest: float | None) -> "_Scaling":
        """Fit to the training part; only it is looked at."""
        zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        if scale == "none":
            return cls(zero, one)
        if scale == "standardize":
            spread = x_N.std(axis=0, dtype=np.float64).astype(np.float32)
            mean = x_N.mean(axis=0, dtype=np.float64).astype(np.float32)
            return cls(mean, np.where(spread > 0, spread, one))  # a constant feature: 0
        if largest is not None:
            return cls(zero, one * np.float32(largest))
        low, high = x_N.min(), x_N.max()
        return cls(zero + low, one * (high - low) if high > low else one)

    def part(self, x_N: Floats, y_N: Array) -> InMemory:
        """Scale features and make tensors of both."""
        scaled = np.ascontiguousarray((x_N - self.shift) / self.divisor, dtype=np.float32)
        return InMemory(torch.from_numpy(scaled), torch.from_numpy(y_N))


def _features(x: Array, key: str) -> Floats:
    """Numbers (N, ...); grey images (N, H, W) get the one channel that they have."""
    if x.ndim < 1 or x.dtype.kind not in "buif" or x.size == 0:
        raise ConfigFailure(
            f"data.{key}: features must be numbers of shape (n, ...), not {x.dtype} {x.shape}"
        )
    features = x.astype(np.float32)
    if not np.isfinite(features).all():
        raise ConfigFailure(f"data.{key}: some features are NaN or infinite; clean them first")
    if features.ndim == 1:
        return features[:, None]
    return features[:, None] if features.ndim == GREY_DIMENSIONS else features


def _labels(y: Array, x: Array, key: str) -> npt.NDArray[np.int64]:
    if y.dtype.kind not in "bui" or y.shape != (len(x),):
        raise ConfigFailure(
            f"data.{key}: labels must be integers of shape ({len(x)},), one for each sample, "
            f"not {y.dtype} {y.shape}"
        )
    labels = y.astype(np.int64)
    if labels.min() < 0 or labels.max() >= CLASSES_MAX:
        raise ConfigFailure(
            f"data.{key}: labels must lie in 0 ... {CLASSES_MAX - 1}, "
            f"but go from {labels.min()} to {labels.max()}; number the classes from 0"
        )
    return labels
