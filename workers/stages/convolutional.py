"""A convolutional layer learns to restore its clean image from a corrupted one.

Masci et al., "Stacked Convolutional Auto-Encoders" (2011), with the corruptions of denoising.py.
Letters: B samples, C x H x W the layer's input, and D x h x w its code.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, conv_transpose2d, pad

from workers.contract.outcome import ConfigFailure
from workers.contract.pretraining_spec import DenoisingAutoencoder
from workers.models.layered import Layer
from workers.stages.denoising import corrupted
from workers.stages.objective import Objective

IMAGE_DIMENSIONS = 3  # (C, H, W)
OVERLAP = 1  # pixels by which the decoder's windows reach beyond the pixels of their code


class ConvolutionalDenoising(Objective):
    """Encoder (the layer), and a decoder of its own that is dropped when the stage is over.

    Whatever normalizes inside of the layer gathers its running statistics from corrupted images,
    and the next stage's clean codes are made with these: they differ a little from what a pass over
    clean images would give.

    Args:
        layer: the layer of the net that is trained.
        method: the recipe's options.
        level: the corruption level of this layer.
        mean_CHW: what the decoder gives at first, or its logits, see `handover.bias_of_mean`.
        code_shape: (D, h, w).
        generator: draws the decoder's weights.

    Raises:
        ConfigFailure: the layer does not make images of images.
    """

    def __init__(
        self,
        layer: Layer,
        method: DenoisingAutoencoder,
        level: float,
        mean_CHW: Tensor,
        code_shape: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        shape = tuple(mean_CHW.shape)
        if len(shape) != IMAGE_DIMENSIONS or len(code_shape) != IMAGE_DIMENSIONS:
            raise ConfigFailure(
                "pretraining.method: denoising_autoencoder restores the images (C, H, W) of layers "
                f"that give images, but one layer makes {tuple(code_shape)} of {shape}; pretrain "
                "the layers below it only, or use greedy_supervised"
            )
        self.layer = layer
        self.decoder = _Decoder(code_shape, mean_CHW, generator)
        self._method = method
        self._level = level

    def loss(self, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        """Reconstruction error of the clean image: sum over C, H and W, mean over B.

        bce: cross-entropy in nats under a sigmoid decoder; never below the entropy of the images
        themselves. mse: squared error under a linear decoder. A layer with a skip hands much of its
        input on untouched, so its error is low from the start: watch its fall.
        """
        code_BDhw = self.layer(corrupted(x_BCHW, self._method.corruption, self._level))
        decoded_BCHW = self.decoder(code_BDhw)
        if self._method.reconstruction_loss == "bce":
            error = binary_cross_entropy_with_logits(decoded_BCHW, x_BCHW, reduction="sum")
        else:
            error = (decoded_BCHW - x_BCHW).square().sum()
        return error / len(x_BCHW)

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the decoder."""
        return dict(self.decoder.state_dict())


class _Decoder(nn.Module):
    """One transposed convolution, with as many pixels a step as the layer strides, and a bias.

    The bias is one of each pixel, as that of a dense layer's decoder is one of each input.
    """

    def __init__(
        self, code_shape: Sequence[int], mean_CHW: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        num_codes, *code_sides = code_shape
        num_channels, *sides = mean_CHW.shape
        self.strides = tuple(
            max(1, round(side / code_side))
            for side, code_side in zip(sides, code_sides, strict=True)
        )
        kernel = [stride + 2 * OVERLAP for stride in self.strides]
        windows = math.prod(k / stride for k, stride in zip(kernel, self.strides, strict=True))
        bound = 1.0 / math.sqrt(num_codes * windows)  # the terms in each decoded pixel's sum
        weight = torch.empty(num_codes, num_channels, *kernel)
        weight.uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(weight.to(mean_CHW.device))
        self.bias_CHW = nn.Parameter(mean_CHW.clone())

    def forward(self, code_BDhw: Tensor) -> Tensor:
        """Return the decoded images, (B, C, H, W)."""
        decoded = conv_transpose2d(code_BDhw, self.weight, stride=self.strides, padding=OVERLAP)
        return _fitted(decoded, self.bias_CHW.shape[1:]) + self.bias_CHW


def _fitted(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Cut or pad images to a size that is no multiple of their codes'.

    A padded convolution begins at the first pixel, so what is too much is at the end. One that was
    not padded has lost pixels at both.
    """
    height, width = (side - found for side, found in zip(sides, x.shape[2:], strict=True))
    if height == width == 0:
        return x
    top, left = max(0, height // 2), max(0, width // 2)
    return pad(x, (left, width - left, top, height - top))
