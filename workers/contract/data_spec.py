"""Where a job's data comes from, and how it is divided and scaled."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from workers.contract.recipe_words import Fraction, RecipeMistake, Seed
from workers.contract.wire import Written

Scale = Literal["unit", "standardize", "none"]
"""unit: divide by the range of the source into [0, 1]; standardize: zero mean, unit variance of the
training part; none: as stored."""


class DigitsData(Written):
    """scikit-learn's 1,797 real 8 x 8 handwritten digits; it needs no download."""

    source: Literal["digits"]
    image: bool = False  # (1, 8, 8) instead of a vector of 64
    test_fraction: Fraction = 0.2
    validation_fraction: Fraction = 0.0
    scale: Scale = "unit"
    split_seed: Seed = 0


class IdxData(Written):
    """A folder with MNIST's four files (`train-images-idx3-ubyte` and so on, also as .gz)."""

    source: Literal["idx"]
    path: Annotated[str, Field(min_length=1)]
    validation_fraction: Fraction = 0.0
    scale: Scale = "unit"
    split_seed: Seed = 0


class NpzData(Written):
    """One .npz file: features `x` (n, ...) and integer labels `y` (n,), optionally a test part."""

    source: Literal["npz"]
    path: Annotated[str, Field(min_length=1)]
    x: str = "x"
    y: str = "y"
    x_test: str | None = None
    y_test: str | None = None
    test_fraction: Fraction = 0.2
    validation_fraction: Fraction = 0.0
    scale: Scale = "none"
    split_seed: Seed = 0

    @model_validator(mode="after")
    def _test_part_is_whole(self) -> Self:
        if (self.x_test is None) != (self.y_test is None):
            raise RecipeMistake("x_test", "name both x_test and y_test, or neither")
        return self


DataSpec = Annotated[DigitsData | IdxData | NpzData, Field(discriminator="source")]
