"""Which trained net a job begins from: the lineage of jobs."""

from typing import Annotated, Any

from pydantic import Field

from workers.contract.wire import Written

SOURCE_CHARS_MAX = 400  # a job's id and the path of a checkpoint


class InitSpec(Written):
    """Begin with the weights of another job's checkpoint instead of random ones.

    `init_from: JOB` means its best checkpoint where it has one, else its newest;
    `init_from: JOB/CHECKPOINT` the one whose folder is called so. Layers that pretraining trains
    begin as their method wants it, whatever was loaded.
    """

    source: Annotated[str, Field(min_length=1, max_length=SOURCE_CHARS_MAX)]
    partial: bool = False
    """Take the weights that fit by name and shape, and leave the others as they were drawn."""

    path: Annotated[str, Field(max_length=SOURCE_CHARS_MAX)] | None = None
    """Written by the service when the job is submitted, like the next one; not by people."""

    manifest_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    @property
    def job_and_folder(self) -> tuple[str, str | None]:
        """What `source` names: a job, and the folder of a checkpoint where one is given."""
        job, _, folder = self.source.partition("/")
        return job, folder or None


def init_of(written: Any) -> Any:
    """Read the short form, which is the source alone."""
    return {"source": written} if isinstance(written, str) else written
