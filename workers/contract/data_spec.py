"""Where a job's data comes from, and how it is divided and scaled."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from workers.contract.recipe_words import OPTIONS_MAX, Entry, Fraction, Rate, RecipeMistake, Seed
from workers.contract.wire import Written

Scale = Literal["unit", "standardize", "none"]
"""unit: divide by the range of the source into [0, 1]; standardize: zero mean, unit variance of the
training part; none: as stored."""

SIDE_MAX = 4096  # pixels; one image of this side is 200 MB of float32 numbers
CHANNELS_MAX = 1024  # more are a dimension in the wrong place
SHUFFLE_SHARDS_MAX = 1000  # all of them are open at once
PROCESSES_MAX = 64  # of one rank; a node has no more cores to spare for each of its ranks

SAMPLES_MAX = 1_000_000_000  # their numbers alone take 8 GB
MEANS_MAX = 2**28  # numbers: 1 GiB of every rank
FEATURES_MAX = 10_000  # names of columns; a wider table is better a .npy file

Path = Annotated[str, Field(min_length=1)]
Positive = Annotated[int, Field(ge=1, le=SIDE_MAX * SIDE_MAX)]
Pixels = Annotated[int, Field(ge=0, le=SIDE_MAX)]


class Augment(Written):
    """Changes of the training images by chance, otherwise in each epoch, in this order."""

    crop_padding: Pixels = 0
    """Pad with so many zeros on each side, and cut out the old size anywhere."""
    flip: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """The probability of a mirror image, left to right."""
    noise: Annotated[float, Field(ge=0.0)] = 0.0
    """The standard deviation of Gaussian noise; with `scale: unit` the sum is cut to [0, 1]."""
    cutout: Pixels = 0
    """Set a square of this side to zero, its middle anywhere in the image."""


class Normalize(Written):
    """(x - mean) / std of all images after all else; one value for each channel, or for all."""

    mean: Annotated[tuple[float, ...], Field(min_length=1, max_length=CHANNELS_MAX)]
    std: Annotated[tuple[Rate, ...], Field(min_length=1, max_length=CHANNELS_MAX)]

    @model_validator(mode="after")
    def _both_are_as_long(self) -> Self:
        if len(self.mean) != len(self.std):
            raise RecipeMistake("std", f"give {len(self.mean)} values, as many as for mean")
        return self


class Samples(Written):
    """What every source may be asked for beside its own."""

    augment: Augment | None = None
    normalize: Normalize | None = None
    workers: Annotated[int, Field(ge=0, le=PROCESSES_MAX)] = 0
    """Processes of each rank that read, decode and augment ahead; 0: the rank does it itself."""


class HeldOut(Samples):
    """Samples of which shares can be held out of the training part, each class by its own."""

    test_fraction: Fraction = 0.2
    validation_fraction: Fraction = 0.0
    """Of what then remains."""
    split_seed: Seed = 0


class DigitsData(HeldOut):
    """scikit-learn's 1,797 real 8 x 8 handwritten digits; it needs no download."""

    source: Literal["digits"]
    image: bool = False  # (1, 8, 8) instead of a vector of 64
    scale: Scale = "unit"

    @model_validator(mode="after")
    def _only_images_are_augmented(self) -> Self:
        if self.augment is not None and not self.image:
            raise RecipeMistake("augment", "changes images; write image: true, or remove it")
        return self


class IdxData(Samples):
    """A folder with MNIST's four files (`train-images-idx3-ubyte` and so on, also as .gz)."""

    source: Literal["idx"]
    path: Path
    validation_fraction: Fraction = 0.0
    scale: Scale = "unit"
    split_seed: Seed = 0


class Arrays(HeldOut):
    """Features (n, ...) and integer labels (n,) as NumPy writes them."""

    x_test: Path | None = None
    """With `y_test`: the test part, which is then not held out of the rest."""
    y_test: Path | None = None
    sequences: bool = False
    """Samples (T, F) are sequences; else (H, W) are grey images."""
    scale: Scale = "none"

    @model_validator(mode="after")
    def _test_part_is_whole(self) -> Self:
        if (self.x_test is None) != (self.y_test is None):
            raise RecipeMistake("x_test", "name both x_test and y_test, or neither")
        return self


class NpzData(Arrays):
    """One .npz file; its arrays are named."""

    source: Literal["npz"]
    path: Path
    x: str = "x"
    y: str | None = "y"
    """None: there are no labels; only `pretraining.data` may be without."""


class NpyData(Arrays):
    """.npy files, of which the features are read by memory map."""

    source: Literal["npy"]
    x: Path
    y: Path | None
    """None: there are no labels; only `pretraining.data` may be without."""


class TableData(HeldOut):
    """A table, one row for each sample: a file, or a folder of such."""

    source: Literal["csv", "parquet"]
    path: Path
    label: Annotated[str, Field(min_length=1)] | None
    """The column of the classes: whole numbers from 0, or names, numbered in their order. None:
    there are no labels; only `pretraining.data` may be without."""
    features: Annotated[tuple[str, ...], Field(min_length=1, max_length=FEATURES_MAX)] | None = None
    """Columns of numbers; None: all others."""
    scale: Scale = "standardize"


class SyntheticData(Samples):
    """Noise around a mean of each class, made when it is asked for: to try out and to measure."""

    source: Literal["synthetic"]
    shape: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=3)]
    classes: Annotated[int, Field(ge=2, le=65_536)] = 10
    samples: Annotated[int, Field(ge=1, le=SAMPLES_MAX)] = 10_000
    test_samples: Annotated[int, Field(ge=0, le=SAMPLES_MAX)] = 1_000
    validation_samples: Annotated[int, Field(ge=0, le=SAMPLES_MAX)] = 0
    noise: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    """Its standard deviation, over that of the classes' means."""
    scale: Literal["unit"] = "unit"
    data_seed: Seed = 0

    @model_validator(mode="after")
    def _means_fit_into_memory(self) -> Self:
        if self.classes * math.prod(self.shape) > MEANS_MAX:
            sentence = f"{self.classes} means of this shape are more than {MEANS_MAX} numbers"
            raise RecipeMistake("shape", f"{sentence}; have fewer classes, or smaller samples")
        return self


class CustomData(HeldOut):
    """Samples from a callable of the user's own, in the packed `code:` or installed on the workers.

    `callable(**options)` returns (x, y) or (x, y, x_test, y_test). What is no array but has a
    `shape` (n, ...), and gives rows for an array of their numbers by `x[numbers]`, is never read
    whole.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    source: Literal["custom"]
    entry: Entry
    options: Annotated[dict[str, Any], Field(max_length=OPTIONS_MAX)] = {}
    sequences: bool = False
    """Samples (T, F) are sequences; else (H, W) are grey images."""
    scale: Scale = "none"


class ImageFolderData(HeldOut):
    """A folder with one folder of .jpg and .png files for each class.

    Where it has `train`, each class is below that, and `validation` and `test`, where there are
    such, take the place of the fractions.
    """

    source: Literal["image_folder"]
    path: Path
    size: Annotated[int, Field(ge=1, le=SIDE_MAX)]
    """Pixels: the shorter side becomes as long, and the middle square is cut out."""
    channels: Literal[1, 3] = 3  # grey, or colours
    scale: Literal["unit"] = "unit"


class StreamData(Samples):
    """Shards of samples in a folder, larger than memory; `strata data shard` writes them.

    Its parts are the folders `train`, `validation` and `test`, of which only the first must be.
    """

    source: Literal["stream"]
    path: Path
    shuffle_shards: Annotated[int, Field(ge=1, le=SHUFFLE_SHARDS_MAX)] = 4
    """Shards whose samples are mixed, in an order of shards that is new in each epoch."""
    scale: Scale = "unit"
    """unit: bytes are divided by 255, other numbers are as they are stored."""


DataSpec = Annotated[
    DigitsData
    | IdxData
    | NpzData
    | NpyData
    | TableData
    | ImageFolderData
    | StreamData
    | SyntheticData
    | CustomData,
    Field(discriminator="source"),
]


def check_labels(data: DataSpec) -> None:
    """Raise RecipeMistake where the samples have no labels."""
    mending = "training needs labels, name them; only what pretraining.data reads may be without"
    match data:
        case NpzData(y=None) | NpyData(y=None):
            raise RecipeMistake("data.y", mending)
        case TableData(label=None):
            raise RecipeMistake("data.label", mending)
        case _:
            return


def check_validation(data: DataSpec, place: str) -> None:
    """Raise RecipeMistake where `place` asks for a validation part that there will not be.

    Folders may have one beside their training part: that shows when they are read.
    """
    match data:
        case ImageFolderData() | StreamData():
            return
        case SyntheticData():
            name, held_out = "validation_samples", float(data.validation_samples)
        case _:
            name, held_out = "validation_fraction", data.validation_fraction
    if held_out == 0.0:
        raise RecipeMistake(place, f"needs a validation part: set data.{name} above 0")
