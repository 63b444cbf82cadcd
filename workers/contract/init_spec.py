"""Which trained net a job begins from: another job's, or weights that were made elsewhere."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from workers.contract.recipe_words import RecipeMistake
from workers.contract.wire import Written

SOURCE_CHARS_MAX = 400  # a job's id and the path of a checkpoint
URL_CHARS_MAX = 1000  # more is no path that a person wrote


class InitSpec(Written):
    """Begin with weights that were trained before instead of random ones.

    `init_from: JOB` means its best checkpoint where it has one, else its newest;
    `init_from: JOB/CHECKPOINT` the one whose folder is called so. Or
    `init_from: {weights: FILE}`, as `strata checkpoints import` writes it. Layers that pretraining
    trains begin as their method wants it, whatever was loaded.
    """

    source: Annotated[str, Field(min_length=1, max_length=SOURCE_CHARS_MAX)] | None = None
    weights: Annotated[str, Field(min_length=1, max_length=URL_CHARS_MAX)] | None = None
    """A .safetensors file of tensors by our names, below the storage root or a data root."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of that file: another content is refused, however often the job is tried."""

    partial: bool = False
    """Take the weights that fit by name and shape, and leave the others as they were drawn."""

    path: Annotated[str, Field(max_length=SOURCE_CHARS_MAX)] | None = None
    """Written by the service when the job is submitted, like the next one; not by people."""

    manifest_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if (self.source is None) == (self.weights is None):
            raise RecipeMistake("weights", "give either a job as `source`, or `weights`")
        if self.sha256 is not None and self.weights is None:
            raise RecipeMistake("sha256", "goes with `weights`; a job's checkpoint needs none")
        return self

    @property
    def job_and_folder(self) -> tuple[str, str | None]:
        """What `source` names: a job, and the folder of a checkpoint where one is given."""
        job, _, folder = (self.source or "").partition("/")
        return job, folder or None


def init_of(written: Any) -> Any:
    """Read the short form, which is the source alone."""
    return {"source": written} if isinstance(written, str) else written
