"""What a net is made of."""

from typing import Annotated, Literal

from pydantic import Field

from workers.contract.recipe_words import LAYERS_MAX, Fraction, Rate, Units
from workers.contract.wire import Written


class MlpModel(Written):
    """A stack of fully connected layers and a linear head that gives one logit per class."""

    kind: Literal["mlp"]
    hidden: Annotated[tuple[Units, ...], Field(min_length=1, max_length=LAYERS_MAX)]
    activation: Literal["sigmoid", "tanh", "relu", "gelu"] = "relu"
    init: Literal["lecun_uniform", "xavier", "he"] = "he"
    gain: Rate = 1.0
    normalization: Literal["none", "batch", "layer"] = "none"
    residual: bool = False
    dropout: Fraction = 0.0

    @property
    def num_layers(self) -> int:
        """The number of hidden layers: what pretraining walks through."""
        return len(self.hidden)


ModelSpec = MlpModel
