"""What a net is made of: an ordered stack of named layers, and a head over the classes."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from workers.contract.recipe_words import (
    LAYERS_MAX,
    OPTIONS_MAX,
    Entry,
    Fraction,
    Rate,
    RecipeMistake,
    Units,
)
from workers.contract.wire import Written

HEADS_MAX = 256
PATCH_MAX = 256  # pixels

CIFAR_DEPTHS = (20, 32, 44, 56, 110)
"""6 n + 2 layers in three groups of n blocks, for small images (He et al., 2015, section 4.2)."""

IMAGE_BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks in each of the four groups (He et al., 2015, table 1)."""


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


class ResnetModel(Written):
    """A residual network for images (He et al., "Deep Residual Learning", 2015).

    18 to 152 are those for large images (from 50 on with bottlenecks, the stride in their 3 x 3
    convolution); 20 to 110 those for small ones, as of CIFAR.
    """

    kind: Literal["resnet"]
    depth: Literal[18, 20, 32, 34, 44, 50, 56, 101, 110, 152]
    width: Units | None = None  # channels of the first group: 64, or 16 for small images

    @property
    def is_for_small_images(self) -> bool:
        """Whether it begins without striding and pooling."""
        return self.depth in CIFAR_DEPTHS

    @property
    def num_layers(self) -> int:
        """The stem and the blocks."""
        blocks = (
            (self.depth - 2) // 2 if self.is_for_small_images else sum(IMAGE_BLOCKS[self.depth])
        )
        return 1 + blocks


class InceptionModel(Written):
    """Inception-v3 (Szegedy et al., "Rethinking the Inception Architecture", 2015)."""

    kind: Literal["inception_v3"]
    auxiliary: bool = True  # a second head in the middle, while it is trained
    dropout: Fraction = 0.5

    @property
    def num_layers(self) -> int:
        """Convolutions, pools and mixed blocks in order."""
        return 18


class TransformerModel(Written):
    """An encoder (Vaswani et al., 2017), normalising before each part, over patches or steps.

    An image (C, H, W) is cut into patches (Dosovitskiy et al., 2020); a sequence is (T, F).
    """

    kind: Literal["transformer"]
    layers: Annotated[int, Field(ge=1, le=LAYERS_MAX)] = 4
    width: Units = 64
    heads: Annotated[int, Field(ge=1, le=HEADS_MAX)] = 4
    feedforward: Units | None = None  # by default four times the width
    patch: Annotated[int, Field(ge=1, le=PATCH_MAX)] = 4  # pixels of a side; of images only
    dropout: Fraction = 0.0

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise RecipeMistake(
                "heads", f"{self.heads} heads can't share a width of {self.width}; divide it evenly"
            )
        return self

    @property
    def num_layers(self) -> int:
        """The embedding and the blocks."""
        return 1 + self.layers


class CustomModel(Written):
    """A net of the user's own, from the packed `code:` or from what the workers have installed.

    `import` names a callable: `callable(shape, num_classes, generator, **options)` returns the
    layers in order, as (name, module) pairs, and a head that gives one logit per class.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    kind: Literal["custom"]
    entry: Entry
    options: Annotated[dict[str, Any], Field(max_length=OPTIONS_MAX)] = {}

    @property
    def num_layers(self) -> int:
        """Known only where it is built."""
        return LAYERS_MAX


ModelSpec = Annotated[
    MlpModel | ResnetModel | InceptionModel | TransformerModel | CustomModel,
    Field(discriminator="kind"),
]
