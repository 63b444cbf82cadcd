"""The whole net learns the labels: the last stage of every job, and the only one of most."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from workers.models.layered import Layered
from workers.stages.objective import Objective


class Finetune(Objective):
    """The net with nothing added."""

    def __init__(self, net: Layered) -> None:
        super().__init__()
        self.net = net

    def loss(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        """Cross-entropy of the labels in nats, mean over B."""
        return cross_entropy(self.net(x_BV), y_B)
