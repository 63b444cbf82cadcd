"""A multilayer perceptron of any depth, as a stack of named layers.

Plain: each entry of `hidden` is linear -> normalization -> activation -> dropout. Residual: the
first entry is a linear layer, each further one a pre-activation block (He et al., 2016) of two
linear layers, so n entries make 2n - 1 linear layers; the head then normalizes and activates first.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from workers.contract.model_spec import MlpModel
from workers.models.layered import Layer, Layered

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
}


def build_mlp(
    model: MlpModel, num_features: int, num_classes: int, generator: torch.Generator
) -> Layered:
    """Build and initialise the whole net, the head by the same rule as the layers."""
    widths = (num_features, *model.hidden)
    layers: list[Layer] = []
    for k, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        if not model.residual:
            layers.append(DenseLayer(model, inputs, outputs, generator))
        elif k == 0:
            layers.append(StemLayer(model, inputs, outputs, generator))
        else:
            layers.append(ResidualBlock(model, inputs, outputs, generator))
    output = None if model.residual else model.activation  # a residual sum has no range
    head = build_head(model, widths[-1], num_classes, generator)
    return Layered(layers, head, output=output)


def build_head(
    model: MlpModel, num_inputs: int, num_classes: int, generator: torch.Generator
) -> nn.Module:
    """Build a head for a layer's output; also used to train that layer alone on the labels."""
    linear = initialized(nn.Linear(num_inputs, num_classes), model, generator)
    if not model.residual:
        return linear
    return nn.Sequential(PreActivation(model, num_inputs), linear)


class DenseLayer(Layer):
    """Linear, normalization, activation, dropout."""

    def __init__(
        self, model: MlpModel, num_inputs: int, num_outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.num_outputs = num_outputs
        self.linear = initialized(nn.Linear(num_inputs, num_outputs), model, generator)
        self.normalization = normalization(model, num_outputs)
        self.activation = ACTIVATIONS[model.activation]
        self.dropout = model.dropout

    def encode(self, x_BV: Tensor) -> Tensor:
        """Return the code (B, H): the output before dropout."""
        z_BH = self.linear(x_BV)
        if self.normalization is not None:
            z_BH = self.normalization(z_BH)
        return self.activation(z_BH)

    def forward(self, x_BV: Tensor) -> Tensor:
        """Return (B, H)."""
        return _dropout(self.encode(x_BV), self.dropout, self.training)


class StemLayer(Layer):
    """The linear layer with which a residual net begins; the first block activates its output."""

    def __init__(
        self, model: MlpModel, num_inputs: int, num_outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.num_outputs = num_outputs
        self.linear = initialized(nn.Linear(num_inputs, num_outputs), model, generator)

    def forward(self, x_BV: Tensor) -> Tensor:
        """Return (B, H)."""
        z_BH: Tensor = self.linear(x_BV)
        return z_BH


class ResidualBlock(Layer):
    """skip(x) + linear(act(norm(linear(act(norm(x)))))); the skip is x itself at equal widths."""

    def __init__(
        self, model: MlpModel, num_inputs: int, num_outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.num_outputs = num_outputs
        self.before_1 = PreActivation(model, num_inputs)
        self.linear_1 = initialized(nn.Linear(num_inputs, num_outputs), model, generator)
        self.before_2 = PreActivation(model, num_outputs)
        self.linear_2 = initialized(nn.Linear(num_outputs, num_outputs), model, generator)
        # Each block adds its variance to the sum: without this a deep stack would overflow.
        with torch.no_grad():
            self.linear_2.weight.div_(math.sqrt(len(model.hidden)))
        self.skip: nn.Linear | None = None
        if num_inputs != num_outputs:
            self.skip = initialized(nn.Linear(num_inputs, num_outputs), model, generator)
        self.dropout = model.dropout

    def forward(self, x_BV: Tensor) -> Tensor:
        """Return (B, H)."""
        h_BH = self.linear_1(self.before_1(x_BV))
        h_BH = self.linear_2(_dropout(self.before_2(h_BH), self.dropout, self.training))
        skip_BH = x_BV if self.skip is None else self.skip(x_BV)
        output_BH: Tensor = skip_BH + h_BH
        return output_BH


class PreActivation(nn.Module):
    """Normalization and activation, ahead of a linear layer."""

    def __init__(self, model: MlpModel, width: int) -> None:
        super().__init__()
        self.normalization = normalization(model, width)
        self.activation = ACTIVATIONS[model.activation]

    def forward(self, x_BV: Tensor) -> Tensor:
        """Return (B, V)."""
        return self.activation(x_BV if self.normalization is None else self.normalization(x_BV))


def normalization(model: MlpModel, width: int) -> nn.Module | None:
    """Return the recipe's normalization over `width` units; None where it asks for none."""
    if model.normalization == "batch":
        return nn.BatchNorm1d(width)
    return nn.LayerNorm(width) if model.normalization == "layer" else None


def initialized(linear: nn.Linear, model: MlpModel, generator: torch.Generator) -> nn.Linear:
    """Draw the weights by the recipe's rule and set the bias to 0.

    lecun_uniform, the old rule: U(-a, a), a = gain / sqrt(fan_in).
    xavier: U(-a, a), a = gain * sqrt(6 / (fan_in + fan_out)).
    he: N(0, s^2), s = gain * sqrt(2 / fan_in).
    """
    fan_in, fan_out = linear.in_features, linear.out_features
    with torch.no_grad():
        if model.init == "he":
            linear.weight.normal_(0.0, model.gain * math.sqrt(2.0 / fan_in), generator=generator)
        else:
            xavier = math.sqrt(6.0 / (fan_in + fan_out))
            bound = model.gain * (xavier if model.init == "xavier" else 1.0 / math.sqrt(fan_in))
            linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.zero_()
    return linear


def _dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    return nn.functional.dropout(x, rate) if training and rate > 0.0 else x
