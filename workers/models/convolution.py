"""What convolutional nets are made of. Letters: B samples, C channels, H x W pixels."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalization, ReLU.

    Weights are drawn from N(0, 2 / fan_out) (He et al., 2015).
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        kernel: int | tuple[int, int],
        generator: torch.Generator,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_inputs, num_outputs, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(num_outputs, eps=eps)
        fan_out = num_outputs * math.prod(self.conv.kernel_size)
        with torch.no_grad():
            self.conv.weight.normal_(0.0, math.sqrt(2.0 / fan_out), generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        return relu(self.norm(self.conv(x)))


class LinearConvNorm(ConvNorm):
    """The same without ReLU: what is added to something else before it is activated."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        z: Tensor = self.norm(self.conv(x))
        return z


class PooledHead(nn.Module):
    """Mean over all pixels, dropout, and a linear layer with one logit per class."""

    def __init__(
        self, num_inputs: int, num_classes: int, generator: torch.Generator, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = drawn(nn.Linear(num_inputs, num_classes), generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, K)."""
        logits_BK: Tensor = self.linear(self.dropout(x.mean((2, 3))))
        return logits_BK


def drawn(linear: nn.Linear, generator: torch.Generator) -> nn.Linear:
    """Draw a linear layer's weights from U(-a, a), a = 1 / sqrt(fan_in); its bias is 0."""
    bound = 1.0 / math.sqrt(linear.in_features)
    with torch.no_grad():
        linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.zero_()
    return linear
