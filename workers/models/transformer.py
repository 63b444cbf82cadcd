"""A transformer encoder over the patches of an image, or the steps of a sequence.

Vaswani et al., "Attention Is All You Need" (2017); Dosovitskiy et al., "An Image Is Worth 16x16
Words" (2020). Letters: B samples, T tokens, F features of a step, D width, M heads.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, scaled_dot_product_attention

from workers.contract.model_spec import TransformerModel
from workers.contract.outcome import ConfigFailure
from workers.models.convolution import drawn
from workers.models.layered import Layer, Layered, numbered

POSITION_STD = 0.02  # as in the vision transformer
IMAGE_DIMENSIONS, SEQUENCE_DIMENSIONS = 3, 2


def build_transformer(
    model: TransformerModel, shape: tuple[int, ...], num_classes: int, generator: torch.Generator
) -> Layered:
    """Build and initialise the whole net.

    Raises:
        ConfigFailure: a sample is neither an image that its patches tile nor a sequence.
    """
    layers: list[Layer] = [Embedding(model, shape, generator)]
    layers += [EncoderBlock(model, generator) for _ in range(model.layers)]
    head = nn.Sequential(
        nn.LayerNorm(model.width),
        MeanOverTokens(),
        drawn(nn.Linear(model.width, num_classes), generator),
    )
    return Layered(layers, head, ("embedding", *numbered("block", model.layers)))


class Embedding(Layer):
    """Tokens with their positions: (B, T, D)."""

    def __init__(
        self, model: TransformerModel, shape: tuple[int, ...], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.patch = 0
        if len(shape) == IMAGE_DIMENSIONS:
            channels, height, width = shape
            self.patch = model.patch
            if height % self.patch or width % self.patch:
                raise ConfigFailure(
                    f"model.patch: images of {height} x {width} can't be cut into patches of "
                    f"{self.patch} x {self.patch}; take a common divisor"
                )
            num_tokens = (height // self.patch) * (width // self.patch)
            self.num_inputs = channels * self.patch**2
        elif len(shape) == SEQUENCE_DIMENSIONS:
            num_tokens, self.num_inputs = shape
        else:
            raise ConfigFailure(
                f"model.kind: a transformer takes images (C, H, W) or sequences (T, F), but a "
                f"sample has the shape {shape}"
            )
        self.num_outputs = model.width
        self.linear = drawn(nn.Linear(self.num_inputs, model.width), generator)
        positions_TD = torch.empty(num_tokens, model.width)
        self.positions_TD = nn.Parameter(
            positions_TD.normal_(0.0, POSITION_STD, generator=generator)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D)."""
        if self.patch:
            x = nn.functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        tokens_BTD: Tensor = self.linear(x) + self.positions_TD
        return tokens_BTD


class EncoderBlock(Layer):
    """x + attention(norm(x)), then x + feedforward(norm(x))."""

    def __init__(self, model: TransformerModel, generator: torch.Generator) -> None:
        super().__init__()
        width, inner = model.width, model.feedforward or 4 * model.width
        self.num_inputs = self.num_outputs = width
        self.heads, self.dropout = model.heads, model.dropout
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projections = drawn(nn.Linear(width, 3 * width), generator)
        self.joined = drawn(nn.Linear(width, width), generator)
        self.inner = drawn(nn.Linear(width, inner), generator)
        self.outer = drawn(nn.Linear(inner, width), generator)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return (B, T, D)."""
        x_BTD = x_BTD + self._dropped(self._attention(self.norm_1(x_BTD)))
        return x_BTD + self._dropped(self.outer(gelu(self.inner(self.norm_2(x_BTD)))))

    def _attention(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        split = self.projections(x_BTD).view(B, T, 3, self.heads, D // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, M, T, D / M)
        mixed = scaled_dot_product_attention(query, key, value)
        joined_BTD: Tensor = self.joined(mixed.transpose(1, 2).reshape(B, T, D))
        return joined_BTD

    def _dropped(self, x_BTD: Tensor) -> Tensor:
        return dropout(x_BTD, self.dropout, self.training) if self.dropout else x_BTD


class MeanOverTokens(nn.Module):
    """(B, T, D) -> (B, D)."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the mean."""
        return x_BTD.mean(1)
