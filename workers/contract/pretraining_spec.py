"""How each layer first learns features of its input, before the whole net is trained."""

from typing import Annotated, Literal

from pydantic import Field

from workers.contract.data_spec import DataSpec
from workers.contract.model_spec import MlpModel, ModelSpec
from workers.contract.recipe_words import (
    LAYERS_MAX,
    BatchSize,
    EarlyStop,
    Epochs,
    Fraction,
    NotNegative,
    Rate,
    RecipeMistake,
    check_length,
)
from workers.contract.wire import Written


class _Pretraining(Written):
    """What every method has; a list gives one value for each pretrained layer."""

    layers: Annotated[int, Field(ge=1, le=LAYERS_MAX)] | None = None  # None: every hidden layer
    epochs: Epochs | tuple[Epochs, ...] = 40
    batch_size: BatchSize = 100
    cache: Literal["memory", "disk", "none"] = "memory"
    """Where the codes of the layers below are kept: on disk, retries and other jobs find them."""
    early_stop: EarlyStop | None = None
    data: DataSpec | None = None
    """Samples without labels to learn from instead, of the same shape: their training part."""

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
    weight_decay: NotNegative = 2e-4
    init_std: Rate = 0.01


class GreedySupervised(_Pretraining):
    """Each layer trains under a head of its own on the labels; the head is dropped afterwards."""

    method: Literal["greedy_supervised"]
    lr: Rate = 3e-3
    optimizer: Literal["adam", "sgd"] = "adam"


PretrainingSpec = Annotated[
    DenoisingAutoencoder | Rbm | GreedySupervised, Field(discriminator="method")
]


def check_pretraining(
    pretraining: PretrainingSpec,
    model: ModelSpec,
    data: DataSpec,
) -> None:
    """Refuse a method that does not fit the net or the data."""
    if not isinstance(model, MlpModel):
        raise RecipeMistake(
            "pretraining.method",
            f"{pretraining.method} trains the dense layers of an mlp, and model.kind is "
            f"{model.kind}; remove pretraining",
        )
    layers = pretraining.layers or model.num_layers
    if layers > model.num_layers:
        raise RecipeMistake(
            "pretraining.layers",
            f"asks for {layers} layers, but the model has {model.num_layers} hidden ones",
        )
    if isinstance(pretraining, GreedySupervised) and pretraining.data is not None:
        raise RecipeMistake(
            "pretraining.data", "greedy_supervised learns from labels; remove it, or use another"
        )
    check_length("pretraining.epochs", pretraining.epochs, layers)
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
    check_length("pretraining.corruption_level", pretraining.corruption_level, layers)
    _check_reconstruction(pretraining, model, data)


def _check_rbm(model: MlpModel, data: DataSpec) -> None:
    if model.activation != "sigmoid":
        raise RecipeMistake(
            "model.activation", "an rbm has sigmoid units; write activation: sigmoid"
        )
    if data.scale == "standardize":
        raise RecipeMistake(
            "data.scale", "an rbm reads inputs in [0, 1] as probabilities; write scale: unit"
        )


def _check_reconstruction(
    pretraining: DenoisingAutoencoder, model: MlpModel, data: DataSpec
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
