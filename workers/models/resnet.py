"""Residual networks for images: a stem, blocks, and a head over the mean of all pixels.

He et al., "Deep Residual Learning for Image Recognition" (2015).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from workers.contract.model_spec import IMAGE_BLOCKS, ResnetModel
from workers.models.convolution import ConvNorm, LinearConvNorm, PooledHead
from workers.models.layered import Layer, Layered, numbered

BOTTLENECKS_FROM = 50
EXPANSION = 4  # channels of a bottleneck's output, over those of its 3 x 3 convolution


def build_resnet(
    model: ResnetModel, num_channels: int, num_classes: int, generator: torch.Generator
) -> Layered:
    """Build and initialise the whole net; it takes images of any size that its strides leave."""
    small = model.is_for_small_images
    width = model.width or (16 if small else 64)
    groups = [(model.depth - 2) // 6] * 3 if small else list(IMAGE_BLOCKS[model.depth])
    is_deep = not small and model.depth >= BOTTLENECKS_FROM
    layers: list[Layer] = [Stem(num_channels, width, small, generator)]
    num_inputs = width
    for group, num_blocks in enumerate(groups):
        num_outputs = width * 2**group * (EXPANSION if is_deep else 1)
        for k in range(num_blocks):
            stride = 2 if group > 0 and k == 0 else 1
            layers.append(Block(num_inputs, num_outputs, stride, is_deep, generator))
            num_inputs = num_outputs
    names = ("stem", *numbered("block", len(layers) - 1))
    return Layered(layers, PooledHead(num_inputs, num_classes, generator), names, output="relu")


class Stem(Layer):
    """The first convolution; for large images it halves them, and a pool halves them again."""

    def __init__(
        self, num_inputs: int, num_outputs: int, small: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.num_inputs, self.num_outputs = num_inputs, num_outputs
        self.small = small
        kernel, stride = (3, 1) if small else (7, 2)
        self.first = ConvNorm(
            num_inputs, num_outputs, kernel, generator, stride=stride, padding=kernel // 2
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        h: Tensor = self.first(x)
        return h if self.small else max_pool2d(h, 3, stride=2, padding=1)


class Block(Layer):
    """relu(skip(x) + convolutions(x)): two of 3 x 3, or a bottleneck of 1 x 1, 3 x 3, 1 x 1.

    The skip is x itself, or a 1 x 1 convolution where channels or size change.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        stride: int,
        is_bottleneck: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.num_inputs, self.num_outputs = num_inputs, num_outputs
        if is_bottleneck:
            inner = num_outputs // EXPANSION
            self.body = nn.Sequential(
                ConvNorm(num_inputs, inner, 1, generator),
                ConvNorm(inner, inner, 3, generator, stride=stride, padding=1),
                LinearConvNorm(inner, num_outputs, 1, generator),
            )
        else:
            self.body = nn.Sequential(
                ConvNorm(num_inputs, num_outputs, 3, generator, stride=stride, padding=1),
                LinearConvNorm(num_outputs, num_outputs, 3, generator, padding=1),
            )
        self.skip: ConvNorm | None = None
        if stride != 1 or num_inputs != num_outputs:
            self.skip = LinearConvNorm(num_inputs, num_outputs, 1, generator, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        skipped = x if self.skip is None else self.skip(x)
        return relu(skipped + self.body(x))
