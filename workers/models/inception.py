"""Inception-v3 for images: convolutions, three kinds of mixed blocks, two that halve the image.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2015). Shapes at 299
pixels: 35 x 35 in mixed-5, 17 x 17 in mixed-6, 8 x 8 in mixed-7. 75 pixels are the least.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, max_pool2d

from workers.contract.model_spec import InceptionModel
from workers.models.convolution import ConvNorm, PooledHead
from workers.models.layered import Layer, Layered

NORM_EPS = 1e-3
PIXELS_MIN = 75
AUXILIARY_ABOVE = "mixed-6e"
AUXILIARY_POOL, AUXILIARY_STRIDE, AUXILIARY_PIXELS = 5, 3, 17  # as published, for 17 x 17

Convolution = tuple[int, int | tuple[int, int]]  # channels, kernel


def build_inception(
    model: InceptionModel, num_channels: int, num_classes: int, generator: torch.Generator
) -> Layered:
    """Build and initialise the whole net."""
    make = Maker(generator)
    named: list[tuple[str, Layer]] = [
        ("conv-1a", make.plain(num_channels, 32, 3, stride=2)),
        ("conv-2a", make.plain(32, 32, 3)),
        ("conv-2b", make.plain(32, 64, 3, padding=1)),
        ("pool-3a", Pool(64)),
        ("conv-3b", make.plain(64, 80, 1)),
        ("conv-4a", make.plain(80, 192, 3)),
        ("pool-5a", Pool(192)),
        ("mixed-5b", make.mixed_5(192, pooled=32)),
        ("mixed-5c", make.mixed_5(256, pooled=64)),
        ("mixed-5d", make.mixed_5(288, pooled=64)),
        ("mixed-6a", make.reducing_6(288)),
        ("mixed-6b", make.mixed_6(768, inner=128)),
        ("mixed-6c", make.mixed_6(768, inner=160)),
        ("mixed-6d", make.mixed_6(768, inner=160)),
        ("mixed-6e", make.mixed_6(768, inner=192)),
        ("mixed-7a", make.reducing_7(768)),
        ("mixed-7b", make.mixed_7(1280)),
        ("mixed-7c", make.mixed_7(2048)),
    ]
    head = PooledHead(2048, num_classes, generator, model.dropout)
    names = [name for name, _ in named]
    net = Layered([layer for _, layer in named], head, names, output="relu")
    if model.auxiliary:
        net.add_auxiliary(AUXILIARY_ABOVE, AuxiliaryHead(768, num_classes, generator))
    return net


class Plain(Layer):
    """One convolution."""

    def __init__(self, convolution: ConvNorm, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.num_inputs, self.num_outputs = num_inputs, num_outputs
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        h: Tensor = self.convolution(x)
        return h


class Pool(Layer):
    """Maximum over 3 x 3 pixels, every second."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.num_inputs = self.num_outputs = num_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H / 2, W / 2)."""
        return max_pool2d(x, 3, stride=2)


class Mixed(Layer):
    """Branches side by side, joined along the channels.

    Args:
        branches: each takes the block's input.
        pool: what stands before the last branch: "mean" keeps the size, "max" halves it.
    """

    def __init__(
        self, num_inputs: int, num_outputs: int, branches: list[nn.Module], pool: str
    ) -> None:
        super().__init__()
        self.num_inputs, self.num_outputs = num_inputs, num_outputs
        self.branches = nn.ModuleList(branches)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        *branches, last = self.branches
        if self.pool == "mean":
            pooled = avg_pool2d(x, 3, stride=1, padding=1)
        else:
            pooled = max_pool2d(x, 3, stride=2)
        return torch.cat([*(branch(x) for branch in branches), last(pooled)], dim=1)


class Split(nn.Module):
    """A trunk, and above it 1 x 3 beside 3 x 1."""

    def __init__(self, trunk: nn.Module, wide: ConvNorm, high: ConvNorm) -> None:
        super().__init__()
        self.trunk, self.wide, self.high = trunk, wide, high

    def forward(self, x: Tensor) -> Tensor:
        """Return both, joined along the channels."""
        h = self.trunk(x)
        return torch.cat([self.wide(h), self.high(h)], dim=1)


class AuxiliaryHead(nn.Module):
    """A classifier in the middle, which brings gradients to the lower layers."""

    def __init__(self, num_inputs: int, num_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = ConvNorm(num_inputs, 128, 1, generator, eps=NORM_EPS)
        self.second = ConvNorm(128, 768, AUXILIARY_POOL, generator, eps=NORM_EPS)
        self.head = PooledHead(768, num_classes, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, K); of smaller images than published the pool takes what there is."""
        if min(x.shape[2:]) >= AUXILIARY_PIXELS:
            h = avg_pool2d(x, AUXILIARY_POOL, AUXILIARY_STRIDE)
        else:
            h = adaptive_avg_pool2d(x, AUXILIARY_POOL)
        logits_BK: Tensor = self.head(self.second(self.first(h)))
        return logits_BK


class Maker:
    """Makes the blocks, all from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def plain(
        self, num_inputs: int, num_outputs: int, kernel: int, stride: int = 1, padding: int = 0
    ) -> Plain:
        """One convolution as a layer."""
        conv = ConvNorm(
            *(num_inputs, num_outputs, kernel, self._generator),
            stride=stride,
            padding=padding,
            eps=NORM_EPS,
        )
        return Plain(conv, num_inputs, num_outputs)

    def mixed_5(self, inputs: int, pooled: int) -> Mixed:
        """1 x 1, 5 x 5, twice 3 x 3, and a pool."""
        branches: list[nn.Module] = [
            self._branch(inputs, (64, 1)),
            self._branch(inputs, (48, 1), (64, 5)),
            self._branch(inputs, (64, 1), (96, 3), (96, 3)),
            self._branch(inputs, (pooled, 1)),
        ]
        return Mixed(inputs, 224 + pooled, branches, "mean")

    def reducing_6(self, inputs: int) -> Mixed:
        """Halve the image by convolutions and by a pool, side by side."""
        branches: list[nn.Module] = [
            self._halving(inputs, (384, 3)),
            self._halving(inputs, (64, 1), (96, 3), (96, 3)),
            nn.Identity(),
        ]
        return Mixed(inputs, 480 + inputs, branches, "max")

    def mixed_6(self, inputs: int, inner: int) -> Mixed:
        """7 x 7 as 1 x 7 and 7 x 1, once and twice."""
        wide, high = (1, 7), (7, 1)
        branches: list[nn.Module] = [
            self._branch(inputs, (192, 1)),
            self._branch(inputs, (inner, 1), (inner, wide), (192, high)),
            self._branch(
                inputs, (inner, 1), (inner, high), (inner, wide), (inner, high), (192, wide)
            ),
            self._branch(inputs, (192, 1)),
        ]
        return Mixed(inputs, 768, branches, "mean")

    def reducing_7(self, inputs: int) -> Mixed:
        """Halve the image once more."""
        branches: list[nn.Module] = [
            self._halving(inputs, (192, 1), (320, 3)),
            self._halving(inputs, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)),
            nn.Identity(),
        ]
        return Mixed(inputs, 512 + inputs, branches, "max")

    def mixed_7(self, inputs: int) -> Mixed:
        """3 x 3 as 1 x 3 beside 3 x 1."""
        branches: list[nn.Module] = [
            self._branch(inputs, (320, 1)),
            self._split(self._branch(inputs, (384, 1))),
            self._split(self._branch(inputs, (448, 1), (384, 3))),
            self._branch(inputs, (192, 1)),
        ]
        return Mixed(inputs, 2048, branches, "mean")

    def _branch(self, inputs: int, *convolutions: Convolution) -> nn.Sequential:
        """Convolutions in a row, each padded so that the size stays."""
        made = []
        for outputs, kernel in convolutions:
            made.append(self._conv(inputs, outputs, kernel))
            inputs = outputs
        return nn.Sequential(*made)

    def _halving(self, inputs: int, *convolutions: Convolution) -> nn.Sequential:
        """The same, but the last one strides over two pixels and is not padded."""
        *before, (outputs, kernel) = convolutions
        trunk = self._branch(inputs, *before)
        inputs = before[-1][0] if before else inputs
        last = ConvNorm(inputs, outputs, kernel, self._generator, stride=2, eps=NORM_EPS)
        return nn.Sequential(*trunk, last)

    def _split(self, trunk: nn.Module) -> Split:
        return Split(trunk, self._conv(384, 384, (1, 3)), self._conv(384, 384, (3, 1)))

    def _conv(self, inputs: int, outputs: int, kernel: int | tuple[int, int]) -> ConvNorm:
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (height // 2, width // 2)
        return ConvNorm(inputs, outputs, kernel, self._generator, padding=padding, eps=NORM_EPS)
