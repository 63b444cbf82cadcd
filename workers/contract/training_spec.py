"""How the whole net is trained by gradient descent: optimizer, schedule, limits."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from workers.contract.recipe_words import (
    BatchSize,
    Epochs,
    Fraction,
    NotNegative,
    Rate,
    RecipeMistake,
)
from workers.contract.wire import Written


class Sgd(Written):
    """torch.optim.SGD."""

    name: Literal["sgd"]
    lr: Rate = 0.1
    momentum: Fraction = 0.0
    weight_decay: NotNegative = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0.0:
            raise RecipeMistake("nesterov", "nesterov needs a momentum above 0")
        return self


class Adam(Written):
    """torch.optim.Adam, or AdamW with its decoupled weight decay."""

    name: Literal["adam", "adamw"]
    lr: Rate = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Rate = 1e-8
    weight_decay: NotNegative = 0.0


OptimizerSpec = Annotated[Sgd | Adam, Field(discriminator="name")]


class ScheduleSpec(Written):
    """How the learning rate moves over a stage: linear warm-up, then constant or half a cosine."""

    name: Literal["constant", "cosine"] = "constant"
    warmup_epochs: NotNegative = 0.0


class TrainingSpec(Written):
    """Gradient descent on the whole net; `batch_size` is global, over all workers."""

    epochs: Epochs = 100
    batch_size: BatchSize = 100
    optimizer: OptimizerSpec = Sgd(name="sgd", lr=0.1, momentum=0.9)
    schedule: ScheduleSpec = ScheduleSpec()
    clip_norm: Rate | None = None
    diagnostics_every_steps: Annotated[int, Field(ge=0)] = 50  # 0: never
