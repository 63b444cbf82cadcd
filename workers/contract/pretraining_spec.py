"""How each layer first learns features of its input, before the whole net is trained."""

from typing import Annotated, Literal

from pydantic import Field

from workers.contract.data_spec import DataSpec
from workers.contract.model_spec import CustomModel, MlpModel, ModelSpec, TransformerModel
from workers.contract.recipe_words import (
    EPOCHS_MAX,
    LAYERS_MAX,
    BatchSize,
    EarlyStop,
    Epochs,
    Fraction,
    NotNegative,
    Rate,
    RecipeMistake,
    Units,
    check_length,
)
from workers.contract.wire import Written

Corruption = Literal["masking", "gaussian", "salt_and_pepper", "none"]

AUX_HEAD_DEPTH_MAX = 16  # a deeper head learns the labels by itself, and leaves the layer nothing


SLOPES = ("sigmoid", "tanh", "relu")  # activations whose slope follows from their value


class _Pretraining(Written):
    """What every method has; a list gives one value for each pretrained layer."""

    layers: Annotated[int, Field(ge=1, le=LAYERS_MAX)] | None = None  # None: every hidden layer
    epochs: Epochs | tuple[Epochs, ...] = 40
    batch_size: BatchSize = 100
    cache: Literal["memory", "disk", "none"] = "memory"
    """Where the codes of the layers below are kept: on disk, retries and other jobs find them."""
    lr: Rate | tuple[Rate, ...]
    early_stop: EarlyStop | None = None
    data: DataSpec | None = None
    """Samples to learn from instead, with labels or without, of the same shape: their training
    part."""

    def epochs_of(self, layer: int) -> int:
        """The epochs of `layer`, counted from 0 at the input."""
        return self.epochs if isinstance(self.epochs, int) else self.epochs[layer]

    def lr_of(self, layer: int) -> float:
        """The learning rate of `layer`, counted from 0 at the input."""
        return self.lr if isinstance(self.lr, float) else self.lr[layer]


class DenoisingAutoencoder(_Pretraining):
    """Each layer learns to restore its clean input from a corrupted one (Vincent et al., 2008)."""

    method: Literal["denoising_autoencoder"]
    lr: Rate | tuple[Rate, ...] = 3e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    corruption: Corruption = "masking"
    corruption_level: (
        Annotated[float, Field(ge=0.0, le=1.0)]
        | tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...]
    ) = 0.25
    tied_weights: bool = True
    reconstruction_loss: Literal["bce", "mse"] = "bce"
    sparsity_target: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """How often a unit shall be on, mean over a worker's part of a batch."""
    sparsity_weight: NotNegative = 0.1
    """Of the divergence from that, in nats, sum over units (Lee, Ekanadham and Ng, 2007)."""
    contractive_penalty: NotNegative = 0.0
    """Weight of the squared norm of the code's slope (Rifai et al., 2011)."""

    def corruption_level_of(self, layer: int) -> float:
        """The corruption level of `layer`, counted from 0 at the input."""
        level = self.corruption_level
        return level if isinstance(level, float) else level[layer]


class Rbm(_Pretraining):
    """Each layer is a restricted Boltzmann machine trained by CD-k (Hinton, 2002 and 2012)."""

    method: Literal["rbm"]
    lr: Rate | tuple[Rate, ...] = 0.1
    cd_k: Annotated[int, Field(ge=1, le=1000)] = 1
    """Steps of the chain."""
    persistent: bool = False
    """The chains go on from step to step instead of beginning at the data (Tieleman, 2008)."""
    visible: Literal["bernoulli", "gaussian"] = "bernoulli"
    """Units of the input: probabilities in [0, 1], or real numbers of unit variance."""
    hidden: Literal["bernoulli", "relu"] = "bernoulli"
    """Units of each layer; relu: noisy rectified ones (Nair and Hinton, 2010)."""
    momentum_initial: Fraction = 0.5
    momentum_final: Fraction = 0.9
    momentum_switch_epoch: Annotated[int, Field(ge=0, le=EPOCHS_MAX)] = 5
    weight_decay: NotNegative = 2e-4
    init_std: Rate = 0.01

    def visible_of(self, layer: int) -> Literal["bernoulli", "gaussian"]:
        """The visible units of `layer`, counted from 0: above the first what is hidden below."""
        if layer == 0:
            return self.visible
        return "bernoulli" if self.hidden == "bernoulli" else "gaussian"


class GreedySupervised(_Pretraining):
    """Each layer trains under a head of its own on the labels; the head is dropped afterwards.

    The head takes the mean of the layer's output over pixels or steps, if it has any.
    """

    method: Literal["greedy_supervised"]
    lr: Rate | tuple[Rate, ...] = 3e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    aux_head_depth: Annotated[int, Field(ge=1, le=AUX_HEAD_DEPTH_MAX)] = 1
    """Linear layers of the head; all but the last have `aux_head_width` units and a ReLU."""
    aux_head_width: Units = 128
    parallel: bool = False
    """All layers in one stage, each on what the one below gives at that moment."""


PretrainingSpec = Annotated[
    DenoisingAutoencoder | Rbm | GreedySupervised, Field(discriminator="method")
]


def check_pretraining(
    pretraining: PretrainingSpec,
    model: ModelSpec,
    data: DataSpec,
) -> None:
    """Refuse a method that does not fit the net or the data."""
    if isinstance(model, CustomModel) and pretraining.layers is None:
        raise RecipeMistake(
            "pretraining.layers",
            "how many layers a custom net has is known only where it is built; write how many of "
            "them to pretrain",
        )
    layers = pretraining.layers or model.num_layers
    if layers > model.num_layers:
        raise RecipeMistake(
            "pretraining.layers",
            f"asks for {layers} layers, but the model has {model.num_layers} of them",
        )
    check_length("pretraining.epochs", pretraining.epochs, layers)
    check_length("pretraining.lr", pretraining.lr, layers)
    source = pretraining.data or data
    match pretraining:
        case GreedySupervised():
            _check_greedy(pretraining)
        case Rbm():
            _check_rbm(pretraining, model, source)
        case DenoisingAutoencoder():
            check_length("pretraining.corruption_level", pretraining.corruption_level, layers)
            _check_encoder(pretraining, model)
            _check_penalties(pretraining, model)
            _check_reconstruction(pretraining, model, source)


def _check_greedy(pretraining: GreedySupervised) -> None:
    if pretraining.data is not None:
        raise RecipeMistake(
            "pretraining.data", "greedy_supervised learns from labels; remove it, or use another"
        )
    if pretraining.parallel and not isinstance(pretraining.epochs, int):
        raise RecipeMistake(
            "pretraining.epochs", "parallel trains all layers in one stage; write one number"
        )


def _check_rbm(pretraining: Rbm, model: ModelSpec, data: DataSpec) -> None:
    if not isinstance(model, MlpModel):
        raise RecipeMistake(
            "pretraining.method",
            f"an rbm trains the dense layers of an mlp, and model.kind is {model.kind}; use "
            "greedy_supervised",
        )
    _check_plain("rbm", model)
    activation = "sigmoid" if pretraining.hidden == "bernoulli" else "relu"
    if model.activation != activation:
        raise RecipeMistake(
            "model.activation",
            f"an rbm with hidden: {pretraining.hidden} has {activation} units; write activation: "
            f"{activation}",
        )
    is_standardized = data.scale == "standardize"
    if pretraining.visible == "gaussian" and not is_standardized:
        raise RecipeMistake(
            "data.scale", "gaussian visible units have unit variance; write scale: standardize"
        )
    if pretraining.visible == "bernoulli" and is_standardized:
        raise RecipeMistake(
            "data.scale",
            "an rbm reads inputs in [0, 1] as probabilities; write scale: unit, or "
            "pretraining.visible: gaussian",
        )
    if pretraining.persistent and pretraining.hidden == "relu":
        raise RecipeMistake(
            "pretraining.persistent",
            "chains of relu units run away, for their energy has no lower bound; remove it",
        )


def _check_plain(method: str, model: MlpModel) -> None:
    if model.residual or model.normalization != "none":
        raise RecipeMistake(
            "pretraining.method",
            f"{method} trains plain layers; remove model.residual and model.normalization, or use "
            "greedy_supervised",
        )


def _check_encoder(pretraining: DenoisingAutoencoder, model: ModelSpec) -> None:
    if isinstance(model, MlpModel):
        _check_plain(pretraining.method, model)
        return
    if isinstance(model, TransformerModel):
        raise RecipeMistake(
            "pretraining.method",
            "denoising_autoencoder restores vectors and images, and a transformer has neither; "
            "use greedy_supervised",
        )
    if pretraining.tied_weights:
        raise RecipeMistake(
            "pretraining.tied_weights",
            f"the layers of {model.kind} are decoded by weights of their own; write "
            "tied_weights: false",
        )


def _check_penalties(pretraining: DenoisingAutoencoder, model: ModelSpec) -> None:
    activation = model.activation if isinstance(model, MlpModel) else model.kind
    if pretraining.sparsity_target is not None and activation != "sigmoid":
        raise RecipeMistake(
            "pretraining.sparsity_target",
            f"is a share of the time that sigmoid units are on, not those of {activation}; remove "
            "it",
        )
    if pretraining.contractive_penalty > 0.0 and activation not in SLOPES:
        raise RecipeMistake(
            "pretraining.contractive_penalty",
            f"is known for {', '.join(SLOPES)} layers, not for {activation}; remove it",
        )


def _check_reconstruction(
    pretraining: DenoisingAutoencoder, model: ModelSpec, data: DataSpec
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
    if layers == 1:
        return
    if not isinstance(model, MlpModel):
        raise RecipeMistake(
            "pretraining.reconstruction_loss",
            f"bce needs targets in [0, 1], but the codes of {model.kind} leave that range; write "
            "reconstruction_loss: mse, or layers: 1",
        )
    if model.activation != "sigmoid":
        raise RecipeMistake(
            "pretraining.reconstruction_loss",
            f"bce needs targets in [0, 1], but {model.activation} codes leave that range; "
            "write activation: sigmoid, or reconstruction_loss: mse",
        )
