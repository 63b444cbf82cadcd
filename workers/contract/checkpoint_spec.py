"""When a job saves checkpoints, and which of them are kept."""

import math
from typing import Annotated, Literal

from pydantic import Field

from workers.contract.recipe_words import STEPS_MAX, RecipeMistake
from workers.contract.wire import Written

KEEP_MAX = 1000  # a job's list stays one page; every one of them costs storage
SECONDS_MAX = 30 * 86_400.0  # longer than jobs last: "never" by the clock

BetterIs = Literal["min", "max"]


class BestSpec(Written):
    """Keep the checkpoint with the best validation metric, whatever came after it.

    One is saved whenever an evaluation is better than all before it.
    """

    metric: Literal["validation_error", "validation_accuracy", "validation_loss"] = (
        "validation_error"
    )
    mode: BetterIs = "min"

    @property
    def figure(self) -> str:
        """What the evaluation calls it."""
        return self.metric.removeprefix("validation_")

    def is_better(self, figure: float, than: float | None) -> bool:
        """Whether a figure beats the best one so far; NaN never does."""
        if than is None:
            return not math.isnan(figure)
        return figure < than if self.mode == "min" else figure > than


class CheckpointPolicy(Written):
    """When to save besides stage ends and stops, and how many to keep."""

    every_steps: Annotated[int, Field(ge=1, le=STEPS_MAX)] = 200
    every_seconds: Annotated[float, Field(gt=0.0, le=SECONDS_MAX)] | None = None  # beside those
    keep_last: Annotated[int, Field(ge=1, le=KEEP_MAX)] = 3
    best: BestSpec | None = None


def check_checkpoint(policy: CheckpointPolicy) -> None:
    """Raise RecipeMistake where the best one would be the worst."""
    if policy.best is None:
        return
    right: BetterIs = "max" if policy.best.figure == "accuracy" else "min"
    if policy.best.mode != right:
        raise RecipeMistake(
            "checkpoint.best.mode",
            f"the best {policy.best.metric} is its {right}: say mode: {right}",
        )
