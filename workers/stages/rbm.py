"""A layer learns as a restricted Boltzmann machine, by contrastive divergence (CD-k).

Hinton, "Training Products of Experts by Minimizing Contrastive Divergence" (2002) and "A Practical
Guide to Training Restricted Boltzmann Machines" (2012). A stack of them is a deep belief network.
Letters: B samples, V visible units (inputs), H hidden units; W_HV the layer's weights, b_H and c_V
the biases of hidden and visible units; v0 is the data, vk the end of the chain.
"""

import torch
from torch import Tensor, nn

from workers.contract.pretraining_spec import Rbm
from workers.models.mlp import DenseLayer
from workers.stages.objective import Objective


class RestrictedBoltzmannMachine(Objective):
    """Bernoulli units on both sides; W and b are those of the net's layer.

    Args:
        layer: the layer of the net; its weights are drawn anew from N(0, init_std), its bias is 0.
        method: the recipe's options.
        visible_bias_V: where c starts, see `handover.bias_of_mean`.
        generator: draws the weights.
    """

    fills_gradients = True

    def __init__(
        self, layer: DenseLayer, method: Rbm, visible_bias_V: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.linear = layer.linear
        self.visible_bias_V = nn.Parameter(visible_bias_V.clone())
        self._method = method
        with torch.no_grad():
            weight_HV = torch.empty(self.linear.weight.shape)
            self.linear.weight.copy_(weight_HV.normal_(0.0, method.init_std, generator=generator))
            self.linear.bias.zero_()

    @torch.no_grad()
    def loss(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        """Set the gradients of CD-k; return the squared reconstruction error (sum over V).

        The gradients are those of the mean free energy of v0 less that of vk, with vk held fixed,
        and of the weight decay on W. The error is not what CD-k descends on, but it can be watched;
        that difference of free energies can't: it may rise as the fit improves.
        """
        v0_BV = x_BV
        p0_BH = self.propup(v0_BV)
        # Only hidden units are sampled; probabilities of the visible ones add less noise.
        vk_BV = self.propdown(sampled(p0_BH))
        pk_BH = self.propup(vk_BV)
        for _ in range(self._method.cd_k - 1):
            vk_BV = self.propdown(sampled(pk_BH))
            pk_BH = self.propup(vk_BV)
        num_samples = len(v0_BV)
        weight, bias, visible_bias = self.linear.weight, self.linear.bias, self.visible_bias_V
        gradient_HV = torch.mm(pk_BH.t(), vk_BV).sub_(torch.mm(p0_BH.t(), v0_BV)).div_(num_samples)
        weight.grad = gradient_HV.add_(weight, alpha=self._method.weight_decay)
        bias.grad = (pk_BH - p0_BH).mean(0)
        difference_BV = vk_BV - v0_BV
        visible_bias.grad = difference_BV.mean(0)
        return difference_BV.square_().sum() / num_samples

    def propup(self, v_BV: Tensor) -> Tensor:
        """Return the probabilities of the hidden units given the visible ones, (B, H)."""
        return torch.sigmoid(self.linear(v_BV))

    def propdown(self, h_BH: Tensor) -> Tensor:
        """Return the probabilities of the visible units given the hidden ones, (B, V)."""
        return torch.sigmoid(torch.addmm(self.visible_bias_V, h_BH, self.linear.weight))

    def own_tensors(self) -> dict[str, Tensor]:
        """Return c; W and b belong to the net."""
        return {"visible_bias": self.visible_bias_V.data}


def sampled(p_BH: Tensor) -> Tensor:
    """Draw 0 or 1 with these probabilities.

    Not torch.bernoulli: on NaN that ends the process on a GPU and raises on a CPU, while the loop's
    finite check gives the owner a sentence. Here NaN draws 0 and shows in the error.
    """
    return (torch.rand_like(p_BH) < p_BH).to(p_BH.dtype)
