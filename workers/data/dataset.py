"""The data of a job as the loop uses it: scaled, and divided into up to three parts.

Letters: N samples. A sample keeps its shape: (V,) for a vector, (C, H, W) for an image, (T, F) for
a sequence.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

import torch

from workers.contract.data_spec import (
    CustomData,
    DataSpec,
    DigitsData,
    IdxData,
    ImageFolderData,
    NpyData,
    NpzData,
    StreamData,
    SyntheticData,
    TableData,
)
from workers.data.augment import augmented, normalized
from workers.data.divide import Parts, divided
from workers.data.part import Flat, Part
from workers.data.processes import prefetched
from workers.data.sources import Places, read_source


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
    return Dataset(*_parts(spec, places)).shown(spec, seed)


def _parts(spec: DataSpec, places: Places) -> Parts:
    """What a source gives; whatever only it needs is imported here."""
    match spec:
        case DigitsData() | IdxData() | NpzData():
            return divided(read_source(spec, places), spec)
        case TableData():
            from workers.data.tables import read_table

            return divided(read_table(spec, places), spec)
        case NpyData():
            from workers.data.rows import divided_files

            return divided_files(spec, places)
        case CustomData():
            from workers.data.custom import load_custom

            return load_custom(spec)
        case ImageFolderData():
            from workers.data.images import load_images

            return Parts(*load_images(spec, places))
        case StreamData():
            from workers.data.stream import open_stream

            return open_stream(spec, places)
        case SyntheticData():
            from workers.data.synthetic import synthetic_parts

            return Parts(*synthetic_parts(spec), spec.classes)
        case _:
            assert_never(spec)
