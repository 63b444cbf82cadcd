"""Which of a job's checkpoints is meant."""

from service.control.ports import Telemetry
from service.domain.errors import NotFound
from service.domain.records import Checkpoint, Job


def named(store: Telemetry, job: Job, path: str | None) -> Checkpoint:
    """The checkpoint with this path, by default the current one.

    Raises:
        NotFound: the job has none, or it is gone.
    """
    for one in store.checkpoints(job.id):
        if not one.pruned and path in (None, one.ref.path):
            return one
    what = "no checkpoint" if path is None else f"no checkpoint {path!r}"
    raise NotFound(f"job {job.id} has {what}", remedy="strata checkpoints list JOB")
