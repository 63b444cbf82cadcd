"""What a net is and how it trains: the part of a job that the workers understand.

A recipe is written by people, so every wrong key, type or combination is refused with the path of
its place. Whether the data fits the recipe is only known where the data is, on the workers.
"""

from operator import attrgetter
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from workers.contract.checkpoint_spec import CheckpointPolicy, check_checkpoint
from workers.contract.data_spec import DataSpec, check_labels, check_validation
from workers.contract.init_spec import InitSpec, init_of
from workers.contract.model_spec import ModelSpec
from workers.contract.pretraining_spec import PretrainingSpec, check_pretraining
from workers.contract.recipe_words import Seed
from workers.contract.training_spec import TrainingSpec
from workers.contract.wire import Written

CODE_CHARS_MAX = 300
WATCHERS = ("training.early_stop", "training.evaluate_every_steps", "checkpoint.best")
"""What watches a validation part, where it is asked for."""


class Recipe(Written):
    """All that a gang must know to train a net; the seed decides every random number in it."""

    data: DataSpec
    model: ModelSpec
    pretraining: PretrainingSpec | None = None
    training: TrainingSpec = TrainingSpec()
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    seed: Seed = 0
    code: Annotated[str, Field(min_length=1, max_length=CODE_CHARS_MAX)] | None = None
    """A folder of modules beside the job file, for every `import:` in the recipe."""
    init_from: Annotated[InitSpec, BeforeValidator(init_of)] | None = None

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        check_labels(self.data)
        if self.pretraining is not None:
            check_pretraining(self.pretraining, self.model, self.data)
        check_checkpoint(self.checkpoint)
        place = self.watches_validation
        if place is not None:
            check_validation(self.data, place)
        return self

    @property
    def watches_validation(self) -> str | None:
        """The first place that asks for a validation part, if one does."""
        return next((place for place in WATCHERS if attrgetter(place)(self) is not None), None)

    @property
    def num_pretrained_layers(self) -> int:
        """How many layers are pretrained; 0 without pretraining."""
        if self.pretraining is None:
            return 0
        return self.pretraining.layers or self.model.num_layers
