"""The whole net learns the labels: the last stage of every job, and the only one of most."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from workers.models.layered import Layered
from workers.stages.objective import Objective

AUXILIARY_WEIGHT = 0.3  # Szegedy et al., "Going Deeper with Convolutions" (2014)


class Finetune(Objective):
    """The net with nothing added."""

    def __init__(self, net: Layered) -> None:
        super().__init__()
        self.net = net

    def loss(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        """Cross-entropy of the labels in nats, mean over B; an auxiliary head adds its share."""
        if self.net.auxiliary is None:
            return cross_entropy(self.net(x_BV), y_B)
        logits_BK, auxiliary_BK = self.net.all_logits(x_BV)
        weighed = AUXILIARY_WEIGHT * cross_entropy(auxiliary_BK, y_B)
        return cross_entropy(logits_BK, y_B) + weighed
