"""Numbers and limits that all parts of a recipe share, and how a wrong combination is refused."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from workers.contract.wire import Written

LAYERS_MAX = 1000  # the deepest net that the tests train
UNITS_MAX = 65_536  # one layer of this width squared is 16 GiB of float32 weights
EPOCHS_MAX = 1_000_000
STEPS_MAX = 1_000_000_000  # more than any job makes: "never" within a stage
BATCH_SIZE_MAX = 1_000_000
SEED_MAX = 2**32 - 1  # NumPy seeds are 32 bits wide

OPTIONS_MAX = 64  # of a callable of the user's own

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Rate = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Epochs = Annotated[int, Field(ge=1, le=EPOCHS_MAX)]
BatchSize = Annotated[int, Field(ge=1, le=BATCH_SIZE_MAX)]
Units = Annotated[int, Field(ge=1, le=UNITS_MAX)]
Entry = Annotated[
    str, Field(alias="import", pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", max_length=300)
]
"""`import: package.module:callable`."""
Seed = Annotated[int, Field(ge=0, le=SEED_MAX)]


class EarlyStop(Written):
    """End a stage when what it watches gets no better; every figure is one where less is better.

    A stage of pretraining watches the mean loss of its epochs.
    """

    patience: Annotated[int, Field(ge=1, le=EPOCHS_MAX)]
    """Looks in a row, none better than the best before, after which the stage ends."""
    min_improvement: Fraction = 0.0
    """The share of the best figure by which a better one must beat it."""


class RecipeMistake(ValueError):
    """A combination that is refused; `path` is where the mending has to happen."""

    def __init__(self, path: str, sentence: str) -> None:
        super().__init__(sentence)
        self.path = path
        self.sentence = sentence


def check_length(path: str, value: float | Sequence[float], layers: int) -> None:
    """Refuse a list that does not give one value for each pretrained layer."""
    if isinstance(value, Sequence) and len(value) != layers:
        raise RecipeMistake(path, f"lists {len(value)} values for {layers} pretrained layers")
