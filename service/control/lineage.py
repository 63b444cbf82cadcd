"""Where a job begins: `init_from` becomes one certain checkpoint when the job is submitted.

So a job that waits, or is tried again, begins where its owner saw it begin, whatever the other job
writes later. The checkpoint is pinned, because the job may wait for long.
"""

from collections.abc import Callable

from service.control.ports import Telemetry
from service.domain.errors import BadInput
from service.domain.records import Checkpoint, Job
from service.domain.spec import JobSpec


def with_ancestor(
    store: Telemetry, find: Callable[[str], Job], spec: JobSpec, earlier: Job | None
) -> tuple[JobSpec, Checkpoint | None]:
    """Return the spec with its checkpoint written into it, and the checkpoint where it is new.

    Args:
        store: where checkpoints are known.
        find: finds a job of the spec's project by what people call it.
        spec: as it was written.
        earlier: the job that was submitted under the same key; what it resolved stays so.

    Raises:
        NotFound: there is no such job in the project.
        BadInput: it means several jobs, or the job has no such checkpoint.
    """
    init = spec.init_from
    if init is None or init.source is None:  # weights from elsewhere are no job's
        return spec, None
    known = earlier.spec.init_from if earlier is not None else None
    if known is not None and (known.source, known.partial) == (init.source, init.partial):
        return spec.model_copy(update={"init_from": known}), None
    ref, folder = init.job_and_folder
    chosen = _chosen(store, find(ref), folder)
    if chosen is None:
        raise BadInput(
            f"there is no checkpoint {init.source!r}",
            place="init_from",
            remedy="`strata checkpoints list JOB` shows those that there are",
        )
    certain = {"path": chosen.ref.path, "manifest_sha256": chosen.ref.manifest_sha256}
    return spec.model_copy(update={"init_from": init.model_copy(update=certain)}), chosen


def _chosen(store: Telemetry, source: Job, folder: str | None) -> Checkpoint | None:
    """The one in this folder; without one the best, or else the newest."""
    known = [one for one in store.checkpoints(source.id) if not (one.pruned or one.prune_asked)]
    if folder is not None:
        return next((one for one in known if one.ref.path.rpartition("/")[2] == folder), None)
    best = source.spec.checkpoint.best
    measured = [(one.figure, one) for one in reversed(known) if one.figure is not None]
    if best is None or not measured:
        return next(iter(known), None)
    choose = min if best.mode == "min" else max
    return choose(measured, key=lambda pair: pair[0])[1]  # of equal ones the first, as retention
