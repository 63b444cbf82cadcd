"""Which net a recipe's `model` asks for."""

import torch

from workers.contract.model_spec import ModelSpec
from workers.models.layered import Layered
from workers.models.mlp import build_mlp


def takes_vectors(model: ModelSpec) -> bool:
    """Whether the net sees a sample as a vector, whatever its shape."""
    return model.kind == "mlp"


def build_net(
    model: ModelSpec, shape: tuple[int, ...], num_classes: int, generator: torch.Generator
) -> Layered:
    """Build and initialise a net.

    Args:
        model: what the recipe says.
        shape: of one sample; of a vector where the net `takes_vectors`.
        num_classes: logits that the head gives.
        generator: draws all initial values.
    """
    [num_features] = shape
    return build_mlp(model, num_features, num_classes, generator)
