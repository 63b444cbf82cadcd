"""A net as an ordered stack of named layers with a head, so that a stage can train one layer alone.

Letters: B samples of a batch, V inputs, H outputs of a layer, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Layer(nn.Module):
    """One named layer of a stack; a block of several operations counts as one layer."""

    num_inputs: int
    num_outputs: int


class Layered(nn.Module):
    """Layers in order, and a head that gives one logit per class."""

    def __init__(self, layers: Sequence[Layer], head: nn.Module) -> None:
        super().__init__()
        digits = max(2, len(str(len(layers))))
        self.names = tuple(f"hidden-{k + 1:0{digits}d}" for k in range(len(layers)))
        self.layers = nn.ModuleDict(dict(zip(self.names, layers, strict=True)))
        self.head = head

    def layer(self, index: int) -> Layer:
        """Return a layer, counted from 0 at the input."""
        layer = self.layers[self.names[index]]
        assert isinstance(layer, Layer)
        return layer

    def forward(self, x_BV: Tensor) -> Tensor:
        """Return logits, (B, K)."""
        h = x_BV
        for layer in self.layers.values():
            h = layer(h)
        logits_BK: Tensor = self.head(h)
        return logits_BK


def seeded(seed: int) -> torch.Generator:
    """Return a generator for initial values: on the CPU, so that every rank draws the same."""
    return torch.Generator().manual_seed(seed)
