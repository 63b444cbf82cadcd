"""A layer learns to restore its clean input from a corrupted one: a denoising autoencoder.

Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders" (2008). The
net and the autoencoder share the layer's weights; only this stage's own input is corrupted, and the
next stage sees clean codes. Letters: B samples, V inputs of the layer, H units of its code.
"""

from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from workers.contract.model_spec import MlpModel
from workers.contract.pretraining_spec import Corruption, DenoisingAutoencoder
from workers.models.mlp import DenseLayer, initialized
from workers.stages.objective import Objective

ON_MIN = 1e-6  # a unit that is never on costs much, but not an infinite loss


class Denoising(Objective):
    """Encoder (the layer), and a decoder of its own that is dropped when the stage is over.

    Args:
        layer: the layer of the net that is trained.
        method: the recipe's options.
        level: the corruption level of this layer.
        visible_bias_V: where the decoder's bias starts, see `handover.bias_of_mean`.
        model: gives the initialisation of an untied decoder.
        generator: draws an untied decoder's weights.
    """

    def __init__(
        self,
        layer: DenseLayer,
        method: DenoisingAutoencoder,
        level: float,
        visible_bias_V: Tensor,
        model: MlpModel,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.visible_bias_V = nn.Parameter(visible_bias_V.clone())
        self.decoder_weight_VH: nn.Parameter | None = None
        if not method.tied_weights:
            decoder = nn.Linear(layer.num_outputs, layer.num_inputs)
            weight = initialized(decoder, model, generator).weight
            self.decoder_weight_VH = nn.Parameter(weight.detach().to(visible_bias_V.device))
        self._method = method
        self._level = level
        self._activation = model.activation

    def loss(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        """Reconstruction error of the clean input: sum over V, mean over B.

        bce: cross-entropy in nats under a sigmoid decoder; never below the entropy of the inputs
        themselves, so watch its fall, not its value. mse: squared error under a linear decoder; it
        can fall while the codes die (see the code's standard deviation, which tells the truth).
        Penalties are added where the recipe asks for them.
        """
        code_BH = self.layer.encode(self.corrupted(x_BV))
        own_VH, tied_VH = self.decoder_weight_VH, self.layer.linear.weight.t()
        weight_VH = tied_VH if own_VH is None else own_VH
        decoded_BV = linear(code_BH, weight_VH, self.visible_bias_V)
        if self._method.reconstruction_loss == "bce":
            error = binary_cross_entropy_with_logits(decoded_BV, x_BV, reduction="sum")
        else:
            error = (decoded_BV - x_BV).square().sum()
        return error / len(x_BV) + self._penalty(code_BH)

    def _penalty(self, code_BH: Tensor) -> Tensor | float:
        """What a code costs that is on too often, or that changes much with its input."""
        penalty: Tensor | float = 0.0
        method = self._method
        if method.sparsity_target is not None:
            penalty = penalty + method.sparsity_weight * sparsity(code_BH, method.sparsity_target)
        if method.contractive_penalty > 0.0:
            slope_BH = slope(code_BH, self._activation)
            norm = (slope_BH.square() @ self.layer.linear.weight.square().sum(1)).mean()
            penalty = penalty + method.contractive_penalty * norm
        return penalty

    def corrupted(self, x_BV: Tensor) -> Tensor:
        """Return a corrupted copy, as the recipe says."""
        return corrupted(x_BV, self._method.corruption, self._level)

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the decoder."""
        own: dict[str, Tensor] = {"visible_bias": self.visible_bias_V.data}
        if self.decoder_weight_VH is not None:
            own["decoder_weight"] = self.decoder_weight_VH.data
        return own


def corrupted(x: Tensor, corruption: Corruption, level: float) -> Tensor:
    """Return a corrupted copy; fresh noise each time.

    masking sets a share `level` of the inputs to 0, salt_and_pepper sets it to 0 or 1 by a fair
    coin, gaussian adds noise of standard deviation `level` to all.
    """
    match corruption:
        case "none":
            return x
        case "masking":
            return torch.empty_like(x).bernoulli_(1.0 - level).mul_(x)
        case "gaussian":
            return torch.randn_like(x).mul_(level).add_(x)
        case "salt_and_pepper":
            hit = torch.rand_like(x) < level
            coin = torch.rand_like(x) < 0.5
            return torch.where(hit, coin.to(x.dtype), x)
        case unknown:
            assert_never(unknown)


def sparsity(code_BH: Tensor, target: float) -> Tensor:
    """Return how far units are from being on that often: a divergence in nats, sum over H, ()."""
    on_H = code_BH.mean(0).clamp(ON_MIN, 1.0 - ON_MIN)
    return (
        target * (target / on_H).log() + (1.0 - target) * ((1.0 - target) / (1.0 - on_H)).log()
    ).sum()


def slope(code_BH: Tensor, activation: str) -> Tensor:
    """Return the derivative of each unit by its input, (B, H), found from its value.

    The squared norm of the code's Jacobian is sum_H slope^2 sum_V W^2.
    """
    match activation:
        case "sigmoid":
            return code_BH * (1.0 - code_BH)
        case "tanh":
            return 1.0 - code_BH.square()
        case "relu":
            return (code_BH > 0.0).to(code_BH.dtype)
        case _:
            raise AssertionError(f"the recipe refuses {activation}")
