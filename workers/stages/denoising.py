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

    def loss(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        """Reconstruction error of the clean input: sum over V, mean over B.

        bce: cross-entropy in nats under a sigmoid decoder; never below the entropy of the inputs
        themselves, so watch its fall, not its value. mse: squared error under a linear decoder; it
        can fall while the codes die (see the code's standard deviation, which tells the truth).
        """
        code_BH = self.layer.encode(self.corrupted(x_BV))
        own_VH, tied_VH = self.decoder_weight_VH, self.layer.linear.weight.t()
        weight_VH = tied_VH if own_VH is None else own_VH
        decoded_BV = linear(code_BH, weight_VH, self.visible_bias_V)
        if self._method.reconstruction_loss == "bce":
            error = binary_cross_entropy_with_logits(decoded_BV, x_BV, reduction="sum")
        else:
            error = (decoded_BV - x_BV).square().sum()
        return error / len(x_BV)

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
