"""What a net is and how it trains: the part of a job that the workers understand.

A recipe is written by people, so every wrong key, type or combination is refused with the path of
its place. Whether the data fits the recipe is only known where the data is, on the workers.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from workers.contract.wire import Written

LAYERS_MAX = 1000  # the deepest net that the tests train
UNITS_MAX = 65_536  # one layer of this width squared is 16 GiB of float32 weights
EPOCHS_MAX = 1_000_000
BATCH_SIZE_MAX = 1_000_000
SEED_MAX = 2**32 - 1  # NumPy seeds are 32 bits wide

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Rate = Annotated[float, Field(gt=0.0)]
Epochs = Annotated[int, Field(ge=1, le=EPOCHS_MAX)]
BatchSize = Annotated[int, Field(ge=1, le=BATCH_SIZE_MAX)]
Units = Annotated[int, Field(ge=1, le=UNITS_MAX)]

Scale = Literal["unit", "standardize", "none"]
"""unit: divide by the range of the source into [0, 1]; standardize: zero mean, unit variance of the
training part; none: as stored."""


class RecipeMistake(ValueError):
    """A combination that is refused; `path` is where the mending has to happen."""

    def __init__(self, path: str, sentence: str) -> None:
        super().__init__(sentence)
        self.path = path
        self.sentence = sentence


# --- data -----------------------------------------------------------------------------------------


class DigitsData(Written):
    """scikit-learn's 1,797 real 8 x 8 handwritten digits; it needs no download."""

    source: Literal["digits"]
    test_fraction: Fraction = 0.2
    validation_fraction: Fraction = 0.0
    scale: Scale = "unit"
    split_seed: Annotated[int, Field(ge=0, le=SEED_MAX)] = 0


class IdxData(Written):
    """A folder with MNIST's four files (`train-images-idx3-ubyte` and so on, also as .gz)."""

    source: Literal["idx"]
    path: Annotated[str, Field(min_length=1)]
    validation_fraction: Fraction = 0.0
    scale: Scale = "unit"
    split_seed: Annotated[int, Field(ge=0, le=SEED_MAX)] = 0


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
    split_seed: Annotated[int, Field(ge=0, le=SEED_MAX)] = 0

    @model_validator(mode="after")
    def _test_part_is_whole(self) -> Self:
        if (self.x_test is None) != (self.y_test is None):
            raise RecipeMistake("x_test", "name both x_test and y_test, or neither")
        return self


DataSpec = Annotated[DigitsData | IdxData | NpzData, Field(discriminator="source")]


# --- model ----------------------------------------------------------------------------------------


class MlpModel(Written):
    """A stack of fully connected layers and a linear head that gives one logit per class."""

    kind: Literal["mlp"]
    hidden: Annotated[tuple[Units, ...], Field(min_length=1, max_length=LAYERS_MAX)]
    activation: Literal["sigmoid", "tanh", "relu", "gelu"] = "relu"
    init: Literal["lecun_uniform", "xavier", "he"] = "he"
    gain: Rate = 1.0
    normalization: Literal["none", "batch", "layer"] = "none"
    residual: bool = False
    dropout: Fraction = 0.0

    @property
    def num_layers(self) -> int:
        """The number of hidden layers: what pretraining walks through."""
        return len(self.hidden)


# --- optimizers -----------------------------------------------------------------------------------


class Sgd(Written):
    """torch.optim.SGD."""

    name: Literal["sgd"]
    lr: Rate = 0.1
    momentum: Fraction = 0.0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
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
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0


OptimizerSpec = Annotated[Sgd | Adam, Field(discriminator="name")]


class ScheduleSpec(Written):
    """How the learning rate moves over a stage: linear warm-up, then constant or half a cosine."""

    name: Literal["constant", "cosine"] = "constant"
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0


# --- pretraining ----------------------------------------------------------------------------------


class _Pretraining(Written):
    """What every method has; a list gives one value for each pretrained layer."""

    layers: Annotated[int, Field(ge=1, le=LAYERS_MAX)] | None = None  # None: every hidden layer
    epochs: Epochs | tuple[Epochs, ...] = 40
    batch_size: BatchSize = 100
    cache: Literal["memory", "none"] = "memory"

    def epochs_of(self, layer: int) -> int:
        """The epochs of `layer`, counted from 0 at the input."""
        return self.epochs if isinstance(self.epochs, int) else self.epochs[layer]


class DenoisingAutoencoder(_Pretraining):
    """Each layer learns to restore its clean input from a corrupted one (Vincent et al., 2008)."""

    method: Literal["denoising_autoencoder"]
    lr: Rate = 3e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    corruption: Literal["masking", "gaussian", "salt_and_pepper", "none"] = "masking"
    corruption_level: (
        Annotated[float, Field(ge=0.0, le=1.0)]
        | tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...]
    ) = 0.25
    tied_weights: bool = True
    reconstruction_loss: Literal["bce", "mse"] = "bce"

    def corruption_level_of(self, layer: int) -> float:
        """The corruption level of `layer`, counted from 0 at the input."""
        level = self.corruption_level
        return level if isinstance(level, float) else level[layer]


class Rbm(_Pretraining):
    """Each layer is a restricted Boltzmann machine trained by CD-k (Hinton, 2002 and 2012)."""

    method: Literal["rbm"]
    lr: Rate = 0.1
    cd_k: Annotated[int, Field(ge=1, le=1000)] = 1
    momentum_initial: Fraction = 0.5
    momentum_final: Fraction = 0.9
    momentum_switch_epoch: Annotated[int, Field(ge=0)] = 5
    weight_decay: Annotated[float, Field(ge=0.0)] = 2e-4
    init_std: Rate = 0.01


class GreedySupervised(_Pretraining):
    """Each layer trains under a head of its own on the labels; the head is dropped afterwards."""

    method: Literal["greedy_supervised"]
    lr: Rate = 3e-3
    optimizer: Literal["adam", "sgd"] = "adam"


PretrainingSpec = Annotated[
    DenoisingAutoencoder | Rbm | GreedySupervised, Field(discriminator="method")
]


# --- fine-tuning, checkpoints, the whole ----------------------------------------------------------


class TrainingSpec(Written):
    """Gradient descent on the whole net; `batch_size` is global, over all workers."""

    epochs: Epochs = 100
    batch_size: BatchSize = 100
    optimizer: OptimizerSpec = Sgd(name="sgd", lr=0.1, momentum=0.9)
    schedule: ScheduleSpec = ScheduleSpec()
    clip_norm: Rate | None = None
    diagnostics_every_steps: Annotated[int, Field(ge=0)] = 50  # 0: never


class CheckpointPolicy(Written):
    """When to save besides stage ends and stops, and how many to keep."""

    every_steps: Annotated[int, Field(ge=1)] = 200
    keep_last: Annotated[int, Field(ge=1, le=1000)] = 3


class Recipe(Written):
    """All that a gang must know to train a net; the seed decides every random number in it."""

    data: DataSpec
    model: MlpModel
    pretraining: PretrainingSpec | None = None
    training: TrainingSpec = TrainingSpec()
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    seed: Annotated[int, Field(ge=0, le=SEED_MAX)] = 0

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.pretraining is not None:
            _check_pretraining(self.pretraining, self.model, self.data)
        return self

    @property
    def num_pretrained_layers(self) -> int:
        """How many layers are pretrained; 0 without pretraining."""
        if self.pretraining is None:
            return 0
        return self.pretraining.layers or self.model.num_layers


def _check_pretraining(
    pretraining: DenoisingAutoencoder | Rbm | GreedySupervised,
    model: MlpModel,
    data: DigitsData | IdxData | NpzData,
) -> None:
    layers = pretraining.layers or model.num_layers
    if layers > model.num_layers:
        raise RecipeMistake(
            "pretraining.layers",
            f"asks for {layers} layers, but the model has {model.num_layers} hidden ones",
        )
    _check_length("pretraining.epochs", pretraining.epochs, layers)
    if isinstance(pretraining, GreedySupervised):
        return
    if model.residual or model.normalization != "none":
        raise RecipeMistake(
            "pretraining.method",
            f"{pretraining.method} trains plain layers; remove model.residual and "
            "model.normalization, or use greedy_supervised",
        )
    if isinstance(pretraining, Rbm):
        _check_rbm(model, data)
        return
    _check_length("pretraining.corruption_level", pretraining.corruption_level, layers)
    _check_reconstruction(pretraining, model, data)


def _check_rbm(model: MlpModel, data: DigitsData | IdxData | NpzData) -> None:
    if model.activation != "sigmoid":
        raise RecipeMistake(
            "model.activation", "an rbm has sigmoid units; write activation: sigmoid"
        )
    if data.scale == "standardize":
        raise RecipeMistake(
            "data.scale", "an rbm reads inputs in [0, 1] as probabilities; write scale: unit"
        )


def _check_reconstruction(
    pretraining: DenoisingAutoencoder, model: MlpModel, data: DigitsData | IdxData | NpzData
) -> None:
    if pretraining.reconstruction_loss != "bce":
        return
    if data.scale == "standardize":
        raise RecipeMistake(
            "pretraining.reconstruction_loss",
            "bce needs targets in [0, 1], but data.scale is standardize; "
            "write scale: unit, or reconstruction_loss: mse",
        )
    layers = pretraining.layers or model.num_layers
    if model.activation != "sigmoid" and layers > 1:
        raise RecipeMistake(
            "pretraining.reconstruction_loss",
            f"bce needs targets in [0, 1], but {model.activation} codes leave that range; "
            "write activation: sigmoid, or reconstruction_loss: mse",
        )


def _check_length(path: str, value: float | Sequence[float], layers: int) -> None:
    if isinstance(value, Sequence) and len(value) != layers:
        raise RecipeMistake(path, f"lists {len(value)} values for {layers} pretrained layers")
