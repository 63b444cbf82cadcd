"""How the whole net is trained by gradient descent: steps, precision, parallelism, limits."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from workers.contract.recipe_words import (
    EPOCHS_MAX,
    STEPS_MAX,
    BatchSize,
    EarlyStop,
    Epochs,
    Fraction,
    NotNegative,
    Rate,
    RecipeMistake,
)
from workers.contract.wire import Written

ACCUMULATE_MAX = 1024  # micro-batches of a step; more of them means too few workers
RATE_CHANGES_MAX = 100  # a longer list of epochs is a curve, and there are schedules for those
DIAGNOSTICS_STEPS_MAX = 1_000_000


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
    amsgrad: bool = False


class AdamVariant(Written):
    """torch.optim.NAdam, RAdam or Adamax; the former two may decay the weights as AdamW does."""

    name: Literal["nadam", "radam", "adamax"]
    lr: Rate = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Rate = 1e-8
    weight_decay: NotNegative = 0.0
    decoupled_weight_decay: bool = False

    @model_validator(mode="after")
    def _adamax_is_not_decoupled(self) -> Self:
        if self.decoupled_weight_decay and self.name == "adamax":
            raise RecipeMistake(
                "decoupled_weight_decay", "adamax has none; remove it, or take nadam or radam"
            )
        return self


class Rmsprop(Written):
    """torch.optim.RMSprop; `centered` divides by the deviation, not by the root mean square."""

    name: Literal["rmsprop"]
    lr: Rate = 1e-3
    alpha: Fraction = 0.99
    eps: Rate = 1e-8
    momentum: Fraction = 0.0
    centered: bool = False
    weight_decay: NotNegative = 0.0


class Adagrad(Written):
    """torch.optim.Adagrad."""

    name: Literal["adagrad"]
    lr: Rate = 0.01
    eps: Rate = 1e-10
    weight_decay: NotNegative = 0.0


OptimizerSpec = Annotated[Sgd | Adam | AdamVariant | Rmsprop | Adagrad, Field(discriminator="name")]


class ScheduleSpec(Written):
    """How the learning rate moves over a stage: linear warm-up, then what `name` says.

    constant; cosine and linear: down to `final_fraction` of the full rate at the last step; step:
    times `factor` at each of the epochs in `at_epochs`; one_cycle: up to the full rate in 30 % of
    the steps and down to nearly 0, both by half a cosine, with a warm-up of its own.
    """

    name: Literal["constant", "cosine", "linear", "step", "one_cycle"] = "constant"
    warmup_epochs: Annotated[float, Field(ge=0.0, le=EPOCHS_MAX)] = 0.0
    final_fraction: Fraction = 0.0
    at_epochs: tuple[Epochs, ...] = Field(default=(), max_length=RATE_CHANGES_MAX)
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1

    @model_validator(mode="after")
    def _words_belong_to_the_name(self) -> Self:
        if self.name == "one_cycle" and self.warmup_epochs > 0.0:
            raise RecipeMistake(
                "warmup_epochs", "one_cycle has a warm-up of its own; remove warmup_epochs"
            )
        if (self.name == "step") != bool(self.at_epochs):
            raise RecipeMistake(
                "at_epochs", "name: step needs at_epochs, the epochs at which the rate falls"
            )
        if list(self.at_epochs) != sorted(set(self.at_epochs)):
            raise RecipeMistake("at_epochs", "list the epochs in rising order, each once")
        if self.final_fraction > 0.0 and self.name not in ("cosine", "linear"):
            raise RecipeMistake(
                "final_fraction", "only cosine and linear end at a fraction of the rate; remove it"
            )
        return self


class ValidationStop(EarlyStop):
    """Ends the training by what evaluations on the validation part find."""

    figure: Literal["error", "loss"] = "error"  # in %; in nats
    target: Annotated[float, Field(ge=0.0)] | None = None
    """Good enough: the training ends at the first evaluation that is not above it."""


class TrainingSpec(Written):
    """Gradient descent on the whole net; `batch_size` is global, over all workers."""

    epochs: Epochs = 100
    batch_size: BatchSize = 100
    accumulate: Annotated[int, Field(ge=1, le=ACCUMULATE_MAX)] = 1
    """Micro-batches into which each worker splits its part of a batch, to save memory: the step is
    the same, but for batch normalization, which sees one micro-batch at a time."""
    optimizer: OptimizerSpec = Sgd(name="sgd", lr=0.1, momentum=0.9)
    schedule: ScheduleSpec = ScheduleSpec()
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """The rate of each layer, as a fraction of that of the one above; the head has the full one."""
    unfreeze_every_epochs: Annotated[int, Field(ge=0, le=EPOCHS_MAX)] = 0
    """The head trains alone at first; each time so many epochs are over, one layer more does, from
    the top down. 0: all train from the start."""
    clip_norm: Rate | None = None
    early_stop: ValidationStop | None = None
    evaluate_every_steps: Annotated[int, Field(ge=1, le=STEPS_MAX)] | None = None
    """How often the net is evaluated on the validation part; None: at the end of each epoch."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """What matrices are multiplied in; weights stay float32. fp16 scales the loss as it needs."""
    on_non_finite: Literal["fail", "skip", "rollback"] = "fail"
    """What to do with a step whose gradient is not finite: fail; leave it out and count it (a
    hundred of them in a row fail); or go back to the stage's last checkpoint and pass over the
    batches that led there, five times at the most."""
    ema: Fraction | None = None
    """Decay of a running mean of the weights: it is what is evaluated, and what the net is at the
    end of the training."""
    activation_checkpointing: bool = False
    """Compute each layer's inner values anew in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile the net with torch.compile: the first step takes longer, by a minute or so."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """ddp: each worker has the whole net; fsdp: each has its shard of every layer."""
    diagnostics_every_steps: Annotated[int, Field(ge=0, le=DIAGNOSTICS_STEPS_MAX)] = 50  # 0: never
    tensorboard: bool = False
    """Write the curves as TensorBoard's event files, into the job's folder on storage; only where
    storage is a folder: others can't append."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.accumulate > self.batch_size:
            raise RecipeMistake(
                "accumulate",
                f"a batch of {self.batch_size} can't be split in {self.accumulate}; lower it",
            )
        return self
