"""A layer learns as a restricted Boltzmann machine, by contrastive divergence (CD-k or PCD-k).

Hinton, "Training Products of Experts by Minimizing Contrastive Divergence" (2002) and "A Practical
Guide to Training Restricted Boltzmann Machines" (2012); Tieleman, "Training Restricted Boltzmann
Machines Using Approximations to the Likelihood Gradient" (2008) for persistent chains; Nair and
Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines" (2010). A stack of them is a
deep belief network. Letters: B samples, V visible units (inputs), H hidden units; W_HV the layer's
weights, b_H and c_V the biases of hidden and visible units; v0 is the data, vk a chain's end.
"""

import torch
from torch import Tensor, nn

from workers.contract.pretraining_spec import Rbm
from workers.models.mlp import DenseLayer
from workers.stages.objective import Objective

CHAINS = "chains"


class RestrictedBoltzmannMachine(Objective):
    """Hidden and visible units; W and b are those of the net's layer.

    Args:
        layer: the layer of the net; its weights are drawn anew from N(0, init_std), its bias is 0.
        method: the recipe's options.
        is_gaussian: the visible units are real numbers of unit variance, not probabilities.
        visible_bias_V: where c starts, see `handover.bias_of_mean`.
        generator: draws the weights.
    """

    fills_gradients = True

    def __init__(
        self,
        layer: DenseLayer,
        method: Rbm,
        is_gaussian: bool,
        visible_bias_V: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.linear = layer.linear
        self.visible_bias_V = nn.Parameter(visible_bias_V.clone())
        self._method = method
        self._is_gaussian = is_gaussian
        self._chains_BV: Tensor | None = None  # of this rank; from its first batch on
        with torch.no_grad():
            weight_HV = torch.empty(self.linear.weight.shape)
            self.linear.weight.copy_(weight_HV.normal_(0.0, method.init_std, generator=generator))
            self.linear.bias.zero_()

    @torch.no_grad()
    def loss(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        """Set the gradients of CD-k or PCD-k; return the squared reconstruction error (sum over V).

        The gradients are those of the mean free energy of v0 less that of vk, with vk held fixed,
        and of the weight decay on W. The error is not what is descended on, but it can be watched;
        that difference of free energies can't: it may rise as the fit improves. Persistent chains
        end far from the data, so there the error is that of one step from the data and back.
        """
        v0_BV, z0_BH = x_BV, self.linear(x_BV)
        p0_BH = self._mean(z0_BH)
        if self._method.persistent:
            vk_BV = self._walked(v0_BV)
            difference_BV = self.propdown(p0_BH) - v0_BV
        else:
            vk_BV = self._reconstructed(p0_BH, z0_BH)
            difference_BV = vk_BV - v0_BV
        pk_BH = self.propup(vk_BV)
        num_samples = len(v0_BV)
        weight, bias, visible_bias = self.linear.weight, self.linear.bias, self.visible_bias_V
        gradient_HV = torch.mm(pk_BH.t(), vk_BV).sub_(torch.mm(p0_BH.t(), v0_BV)).div_(num_samples)
        weight.grad = gradient_HV.add_(weight, alpha=self._method.weight_decay)
        bias.grad = (pk_BH - p0_BH).mean(0)
        visible_bias.grad = (vk_BV - v0_BV).mean(0)
        return difference_BV.square_().sum() / num_samples

    def propup(self, v_BV: Tensor) -> Tensor:
        """Return the means of the hidden units given the visible ones, (B, H)."""
        return self._mean(self.linear(v_BV))

    def propdown(self, h_BH: Tensor) -> Tensor:
        """Return the means of the visible units given the hidden ones, (B, V)."""
        z_BV = torch.addmm(self.visible_bias_V, h_BH, self.linear.weight)
        return z_BV if self._is_gaussian else torch.sigmoid(z_BV)

    def own_tensors(self) -> dict[str, Tensor]:
        """Return c; W and b belong to the net."""
        return {"visible_bias": self.visible_bias_V.data}

    def rank_tensors(self) -> dict[str, Tensor]:
        """Return this rank's chains, once there are any."""
        return {} if self._chains_BV is None else {CHAINS: self._chains_BV}

    def restore_rank_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on with these chains; without any, new ones begin at the next batch."""
        chains_BV = tensors.get(CHAINS)
        self._chains_BV = None if chains_BV is None else chains_BV.to(self.linear.weight.device)

    def _reconstructed(self, p0_BH: Tensor, z0_BH: Tensor) -> Tensor:
        """The end of chains that begin at the data.

        Only hidden units are sampled; means of the visible ones add less noise.
        """
        vk_BV = self.propdown(self._drawn(p0_BH, z0_BH))
        for _ in range(self._method.cd_k - 1):
            z_BH = self.linear(vk_BV)
            vk_BV = self.propdown(self._drawn(self._mean(z_BH), z_BH))
        return vk_BV

    def _walked(self, v0_BV: Tensor) -> Tensor:
        """The chains after some more steps.

        Their visible units are means, as the data are: sampled ones vary more than data of grey
        levels do, and on such data the codes of most layers collapse.
        """
        if self._chains_BV is None:
            self._chains_BV = v0_BV.clone()
        for _ in range(self._method.cd_k):
            z_BH = self.linear(self._chains_BV)
            self._chains_BV.copy_(self.propdown(self._drawn(self._mean(z_BH), z_BH)))
        return self._chains_BV

    def _mean(self, z_BH: Tensor) -> Tensor:
        """The means of the hidden units, given their inputs."""
        return torch.sigmoid(z_BH) if self._method.hidden == "bernoulli" else torch.relu(z_BH)

    def _drawn(self, mean_BH: Tensor, z_BH: Tensor) -> Tensor:
        """States of the hidden units, given their means and their inputs."""
        if self._method.hidden == "bernoulli":
            return sampled(mean_BH)
        # About the sum of many copies of a unit whose biases are shifted by a half, and so on.
        return torch.relu(z_BH + torch.randn_like(z_BH) * torch.sigmoid(z_BH).sqrt())


def sampled(p_BH: Tensor) -> Tensor:
    """Draw 0 or 1 with these probabilities.

    Not torch.bernoulli: on NaN that ends the process on a GPU and raises on a CPU, while the loop's
    finite check gives the owner a sentence. Here NaN draws 0 and shows in the error.
    """
    return (torch.rand_like(p_BH) < p_BH).to(p_BH.dtype)
