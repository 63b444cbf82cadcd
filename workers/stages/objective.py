"""What a stage trains: a module whose forward pass is the loss of a batch.

Everything else about a stage (its data, order, optimizer, checkpoints) is the same for all methods
and lives in the loop. Letters: B samples of a batch, V inputs of a layer, H its outputs.
"""

from torch import Tensor, nn


class Objective(nn.Module):
    """The parameters that a stage trains, and nothing that it does not, with their loss.

    It shares the weights of the net's layers, so what it learns need not be carried over. Its
    parameters agree on every rank at the start; its random numbers are torch's own, which the loop
    seeds for each rank and keeps in checkpoints.
    """

    fills_gradients = False
    """Whether `loss` writes each parameter's `.grad` (a mean over B) itself, without autograd."""

    def loss(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        """Return the mean over B of the loss, a scalar."""
        raise NotImplementedError

    def own_tensors(self) -> dict[str, Tensor]:
        """Return what is trained here and is not part of the net: it belongs in checkpoints too."""
        return {}

    def rank_tensors(self) -> dict[str, Tensor]:
        """Return what is each rank's own, such as chains; checkpoints keep it for every rank."""
        return {}

    def restore_rank_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on with what `rank_tensors` gave; {} where there are other ranks now."""

    def forward(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        """Return the loss: DDP watches forward passes only."""
        return self.loss(x_BV, y_B)
