"""Where the training is, and what it found out on the way: the part of its state that is JSON."""

import math
from dataclasses import dataclass, field, replace

from workers.contract.checkpoint_spec import BestSpec
from workers.contract.recipe_words import EarlyStop
from workers.contract.training_spec import ValidationStop


@dataclass(frozen=True)
class Position:
    """Where the training is, and what it found out on the way."""

    stage_index: int = 0
    stage_step: int = 0  # optimizer steps done in the stage
    is_stage_over: bool = False
    seconds: float = 0.0  # training time of the stage, over attempts
    epoch_loss_sum: float = 0.0  # of the epoch so far, mean over ranks
    loss_first: float | None = None  # mean loss of the stage's first epoch, once it is over
    loss_last: float | None = None  # mean loss of its last whole epoch
    validation: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    best_validation_error: float | None = None  # in %
    evaluated_step: int | None = None  # optimizer steps of the whole job at the last evaluation
    best_step: int | None = None  # the same, at the best one, where `checkpoint.best` asks for it
    best_figure: float | None = None  # what was measured there
    noticed: tuple[str, ...] = ()  # codes that the stage has told; each is told once
    lowest: float | None = None  # the least of what early stopping watches, in this stage
    num_no_better: int = 0  # looks at it since then
    num_rollbacks: int = 0  # of the stage

    def next_stage(self) -> "Position":
        """Return the beginning of the next stage."""
        return Position(
            stage_index=self.stage_index + 1,
            validation=self.validation,
            best_validation_error=self.best_validation_error,
            evaluated_step=self.evaluated_step,
            best_step=self.best_step,
            best_figure=self.best_figure,
        )

    def evaluated(self, step: int, metrics: dict[str, float], best: BestSpec | None) -> "Position":
        """Return the position after an evaluation on the validation part."""
        error = metrics["error"]
        lowest = error if self.best_validation_error is None else self.best_validation_error
        after = replace(
            self,
            validation=metrics,
            best_validation_error=min(lowest, error),
            evaluated_step=step,
        )
        if best is None or not best.is_better(metrics[best.figure], self.best_figure):
            return after
        return replace(after, best_step=step, best_figure=metrics[best.figure])

    def watched(self, figure: float, min_improvement: float) -> "Position":
        """Return the position after a look at what early stopping watches; less is better.

        Args:
            figure: an epoch's loss, or a figure of an evaluation.
            min_improvement: the share of the least one so far by which it must fall to count.
        """
        limit = math.inf
        if self.lowest is not None:
            limit = self.lowest - min_improvement * abs(self.lowest)
        if figure < limit:
            return replace(self, lowest=figure, num_no_better=0)
        return replace(self, num_no_better=self.num_no_better + 1)

    def has_settled(self, early_stop: EarlyStop) -> bool:
        """Whether the stage is to end before its time."""
        if isinstance(early_stop, ValidationStop) and early_stop.target is not None:
            figure = self.validation.get(early_stop.figure)
            if figure is not None and figure <= early_stop.target:
                return True
        return self.num_no_better >= early_stop.patience
