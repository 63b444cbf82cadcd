"""A net as an ordered stack of named layers with a head, so that a stage can train one layer alone.

Letters: B samples of a batch, V inputs, H outputs of a layer, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Layer(nn.Module):
    """One named layer of a stack; a block of several operations counts as one layer."""

    num_inputs: int  # features, or channels
    num_outputs: int


class Layered(nn.Module):
    """Layers in order, and a head that gives one logit per class.

    Args:
        layers: from the input up.
        head: takes the last layer's output.
        names: of the layers; hidden-01, hidden-02, ... unless given.
        output: the function whose values the layers give, where that is so: what lies at an end of
            its range passes no gradient.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        head: nn.Module,
        names: Sequence[str] | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(names) if names is not None else numbered("hidden", len(layers))
        self.layers = nn.ModuleDict(dict(zip(self.names, layers, strict=True)))
        self.head = head
        self.output = output
        self.auxiliary_above: str | None = None
        self.auxiliary: nn.Module | None = None

    def layer(self, index: int) -> Layer:
        """Return a layer, counted from 0 at the input."""
        layer = self.layers[self.names[index]]
        assert isinstance(layer, Layer)
        return layer

    def add_auxiliary(self, above: str, head: nn.Module) -> None:
        """Put a second head above the layer of this name; it is used in training only."""
        self.auxiliary_above, self.auxiliary = above, head

    def forward(self, x_BV: Tensor) -> Tensor:
        """Return logits, (B, K)."""
        h = x_BV
        for layer in self.layers.values():
            h = layer(h)
        logits_BK: Tensor = self.head(h)
        return logits_BK

    def all_logits(self, x_BV: Tensor) -> list[Tensor]:
        """Return the logits of the head, and of the auxiliary one if there is one; each (B, K)."""
        h, auxiliary = x_BV, list[Tensor]()
        for name, layer in self.layers.items():
            h = layer(h)
            if self.auxiliary is not None and name == self.auxiliary_above:
                auxiliary.append(self.auxiliary(h))
        return [self.head(h), *auxiliary]


def numbered(word: str, count: int) -> tuple[str, ...]:
    """Return `word-01`, `word-02`, ..., which sort by their numbers."""
    digits = max(2, len(str(count)))
    return tuple(f"{word}-{k + 1:0{digits}d}" for k in range(count))


def seeded(seed: int) -> torch.Generator:
    """Return a generator for initial values: on the CPU, so that every rank draws the same."""
    return torch.Generator().manual_seed(seed)
