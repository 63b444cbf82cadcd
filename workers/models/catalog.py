"""Which net a recipe's `model` asks for."""

from typing import assert_never

import torch

from workers.contract.model_spec import (
    CustomModel,
    InceptionModel,
    MlpModel,
    ModelSpec,
    ResnetModel,
    TransformerModel,
)
from workers.contract.outcome import ConfigFailure
from workers.models.layered import Layered
from workers.models.mlp import build_mlp

IMAGE_DIMENSIONS = 3  # (C, H, W)


def takes_vectors(model: ModelSpec) -> bool:
    """Whether the net sees a sample as a vector, whatever its shape."""
    return isinstance(model, MlpModel)


def build_net(
    model: ModelSpec, shape: tuple[int, ...], num_classes: int, generator: torch.Generator
) -> Layered:
    """Build and initialise a net.

    Args:
        model: what the recipe says.
        shape: of one sample; of a vector where the net `takes_vectors`.
        num_classes: logits that the head gives.
        generator: draws all initial values.

    Raises:
        ConfigFailure: the net does not take samples of this shape, or can't be imported.
    """
    # What a plain net needs not is not imported: its first step would wait for it.
    match model:
        case MlpModel():
            return build_mlp(model, shape[0], num_classes, generator)
        case ResnetModel():
            from workers.models.resnet import build_resnet

            return build_resnet(model, _channels(model.kind, shape, 1), num_classes, generator)
        case InceptionModel():
            from workers.models.inception import PIXELS_MIN, build_inception

            channels = _channels(model.kind, shape, PIXELS_MIN)
            return build_inception(model, channels, num_classes, generator)
        case TransformerModel():
            from workers.models.transformer import build_transformer

            return build_transformer(model, shape, num_classes, generator)
        case CustomModel():
            from workers.models.custom import build_custom

            return build_custom(model, shape, num_classes, generator)
        case unknown:
            assert_never(unknown)


def _channels(kind: str, shape: tuple[int, ...], pixels_min: int) -> int:
    if len(shape) != IMAGE_DIMENSIONS:
        raise ConfigFailure(
            f"model.kind: {kind} takes images (C, H, W), but a sample has the shape {shape}; take "
            "an mlp, or data of images"
        )
    channels, height, width = shape
    if min(height, width) < pixels_min:
        raise ConfigFailure(
            f"model.kind: {kind} takes images of {pixels_min} x {pixels_min} pixels or more, but a "
            f"sample has {height} x {width}"
        )
    return channels
