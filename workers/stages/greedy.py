"""A layer learns the labels under a head of its own, which is dropped when the stage is over.

Bengio et al., "Greedy Layer-Wise Training of Deep Networks" (2007), the supervised variant.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from workers.contract.model_spec import MlpModel
from workers.models.layered import Layer
from workers.models.mlp import build_head
from workers.stages.objective import Objective


class GreedyLayer(Objective):
    """The layer and a softmax head on its output, initialised like the net's own head."""

    def __init__(
        self,
        layer: Layer,
        model: MlpModel,
        num_classes: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.head = build_head(model, layer.num_outputs, num_classes, generator).to(device)

    def loss(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        """Cross-entropy of the labels in nats, mean over B."""
        return cross_entropy(self.head(self.layer(x_BV)), y_B)

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the head."""
        return dict(self.head.state_dict())
