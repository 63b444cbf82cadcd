"""The job as people write it: what the service needs to know, around a recipe for the workers."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from service.domain.resources import Resources, SpanSeconds
from workers.contract.recipe import Recipe
from workers.contract.recipe_words import RecipeMistake

NAME_CHARS_MAX = 100
LABELS_MAX = 32
ENV_MAX = 64
ENV_CHARS_MAX = 4096
PRIORITY_MAX = 1000
RETRIES_MAX = 100

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=NAME_CHARS_MAX)]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=NAME_CHARS_MAX)]


class JobSpec(Recipe):
    """A recipe, and who waits for it, where, and how long.

    The recipe's keys stand beside the service's in the YAML, so that a job reads as one flat page;
    `recipe` takes them out again for the workers.
    """

    name: Word
    queue: Word = "default"
    project: Word = "default"
    priority: Annotated[int, Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    labels: Annotated[dict[Word, str], Field(max_length=LABELS_MAX)] = {}
    env: Annotated[
        dict[EnvName, Annotated[str, Field(max_length=ENV_CHARS_MAX)]], Field(max_length=ENV_MAX)
    ] = {}
    resources: Resources = Resources()
    retries: Annotated[int, Field(ge=0, le=RETRIES_MAX)] = 0  # after an error in the user's code
    max_duration: SpanSeconds | None = None  # of one attempt, in seconds

    @model_validator(mode="after")
    def _batches_reach_every_worker(self) -> Self:
        workers = self.resources.workers
        batches = {"training.batch_size": self.training.batch_size}
        if self.pretraining is not None:
            batches["pretraining.batch_size"] = self.pretraining.batch_size
        for path, size in batches.items():
            if size < workers:
                raise RecipeMistake(
                    path, f"is {size}, but every one of {workers} workers needs a sample of it"
                )
        return self

    @property
    def recipe(self) -> Recipe:
        """What the workers need to know."""
        return Recipe.model_construct(
            **{name: getattr(self, name) for name in Recipe.model_fields},
        )
