"""Layers learn the labels under heads of their own, which are dropped when the stage is over.

Bengio et al., "Greedy Layer-Wise Training of Deep Networks" (2007), the supervised variant; with
convolutional layers and deeper heads, Belilovsky et al., "Greedy Layerwise Learning Can Scale to
ImageNet" (2019); several at once, the same, "Decoupled Greedy Learning of CNNs" (2020). Letters: B
samples, V inputs of the layer, H units of its output, K classes.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workers.contract.model_spec import MlpModel, ModelSpec
from workers.contract.outcome import ConfigFailure
from workers.contract.pretraining_spec import GreedySupervised
from workers.models.convolution import drawn
from workers.models.layered import Layer
from workers.models.mlp import build_head
from workers.stages.objective import Objective


class Greedy(Objective):
    """One layer, or several that lie one above the other, each with a head on its output.

    Several learn at once, but each by itself: what a layer hands up carries no gradient down.
    """

    def __init__(self, layers: Sequence[Layer], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.heads = nn.ModuleList(heads)

    def loss(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        """Cross-entropy of the labels in nats, mean over B, sum over layers.

        Summed, so that each layer learns at the rate at which it would learn alone.
        """
        losses, h = [], x_BV
        for layer, head in zip(self.layers, self.heads, strict=True):
            h = layer(h.detach())
            losses.append(cross_entropy(head(h), y_B))
        return torch.stack(losses).sum()

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the heads."""
        return dict(self.heads.state_dict())


class MeanOver(nn.Module):
    """The mean over all dimensions that are not units: pixels (B, C, H, W), or steps (B, T, F)."""

    def __init__(self, dimensions: Sequence[int]) -> None:
        super().__init__()
        self.dimensions = tuple(dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, H)."""
        return x.mean(self.dimensions)


def build_auxiliary_head(
    method: GreedySupervised,
    model: ModelSpec,
    shape: Sequence[int],
    num_classes: int,
    generator: torch.Generator,
) -> nn.Module:
    """Build a head for a layer; that of an mlp begins as the net's own does.

    Args:
        method: says how deep and how wide it is.
        model: the net to which the layer belongs.
        shape: of the layer's output for one sample: (H,), (T, F) or (C, H, W).
        num_classes: K.
        generator: draws the weights.

    Raises:
        ConfigFailure: the layer gives a single number, of which a head can't make anything.
    """
    pool, num_units = _pool(shape)
    widths = [num_units] + [method.aux_head_width] * (method.aux_head_depth - 1) + [num_classes]
    (_, first), *others = itertools.pairwise(widths)
    head: list[nn.Module] = [pool] if pool is not None else []
    if isinstance(model, MlpModel):
        head.append(build_head(model, num_units, first, generator))
    else:
        head.append(drawn(nn.Linear(num_units, first), generator))
    for num_inputs, num_outputs in others:
        head += [nn.ReLU(), drawn(nn.Linear(num_inputs, num_outputs), generator)]
    return head[0] if len(head) == 1 else nn.Sequential(*head)


def _pool(shape: Sequence[int]) -> tuple[nn.Module | None, int]:
    """What makes a vector of the layer's output, and how long that is."""
    match tuple(shape):
        case (num_units,):
            return None, num_units
        case (_, num_units):
            return MeanOver([1]), num_units
        case (num_units, *rest) if rest:
            return MeanOver(range(2, 2 + len(rest))), num_units
        case _:
            raise ConfigFailure(
                "pretraining.method: greedy_supervised puts a head on each layer's output, but one "
                "layer gives a single number for each sample; pretrain the layers below it only"
            )
