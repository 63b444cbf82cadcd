"""A small convolutional net for images, as an ordered list of named layers and a head.

`strata` calls `build` on every worker. Its names are what figures, diagnostics and checkpoints say:
"the gradient of `strokes` vanishes" is of use to you, "layer 2" is not.
"""

from itertools import pairwise

import torch
from torch import nn


def build(
    shape: tuple[int, ...],
    num_classes: int,
    generator: torch.Generator,
    channels: tuple[int, int, int] = (16, 32, 64),
    dropout: float = 0.0,
) -> tuple[list[tuple[str, nn.Module]], nn.Module]:
    """Return the layers from the input up, and a head that gives one logit per class.

    Args:
        shape: of one sample, here (C, H, W).
        num_classes: logits of the head.
        generator: for initial values of your own; torch's default ones, as here, are drawn from the
            job's seed as well, so that all workers begin alike.
        channels: from the job's `options`, like all that follows.
        dropout: before the head.
    """
    num_channels = shape[0]
    layers = [
        (name, _block(inputs, outputs, stride))
        for name, stride, (inputs, outputs) in zip(
            ("edges", "strokes", "shapes"),
            (1, 2, 2),
            pairwise((num_channels, *channels)),
            strict=True,
        )
    ]
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(channels[-1], num_classes),
    )
    return layers, head


def _block(num_inputs: int, num_outputs: int, stride: int) -> nn.Module:
    """Convolution, normalization, ReLU; with stride 2 it halves the image."""
    return nn.Sequential(
        nn.Conv2d(num_inputs, num_outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(num_outputs),
        nn.ReLU(),
    )
