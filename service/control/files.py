"""What the service reads of storage: logs, checkpoints to verify, and whether data is there."""

from collections.abc import Iterable

from service.control.checkpoints import named
from service.control.ports import Telemetry
from service.control.storage import opened
from service.control.views import LogPart, Verified
from service.domain.errors import BadInput
from service.domain.records import Checkpoint, Job
from workers.contract.manifest import CheckpointDamaged, verify
from workers.contract.paths import log_folder, resolve_data

READ_BYTES = 1 << 20
LOG_BYTES_MAX = 1 << 20  # one answer; the reader asks again with the cursor
LOG_CHUNKS_MAX = 200  # the same: chunks of one answer, each a request to an object store


def data_place(path: str, storage_url: str, data_roots: tuple[str, ...], *, place: str) -> str:
    """The URL of a spec's path of data; BadInput at `place` where it can't be read from there."""
    url = resolve_data(path, storage_url, data_roots)
    if url is None:
        raise BadInput(
            f"{path!r} lies outside of the storage at {storage_url}",
            place=place,
            remedy="put the data below it and write the path from there, "
            "or name its folder in STRATA_DATA_ROOTS",
        )
    from fsspec.core import url_to_fs

    try:
        files, inside = url_to_fs(url)
        is_there = files.exists(inside)
    except Exception:  # noqa: BLE001  # any storage's own: a missing library, no credentials here
        return url  # only the workers can look there
    if not is_there:
        raise BadInput(
            f"there is no {url}", place=place, remedy="put the data there, or mend the path"
        )
    return url


class Files:
    """Reads what gangs wrote; it never writes, and never loads a tensor."""

    def __init__(self, store: Telemetry, *, storage_url: str) -> None:
        self._store = store
        self._storage_url = storage_url

    def verify(self, job: Job, path: str | None) -> list[Verified]:
        """Compare a checkpoint's bytes with what was recorded; by default the current one's."""
        return [self._verify(named(self._store, job, path))]

    def _verify(self, checkpoint: Checkpoint) -> Verified:
        ref = checkpoint.ref
        with opened(self._storage_url, ref.path) as (files, folder):

            def read(name: str) -> Iterable[bytes]:
                with files.open(f"{folder}/{name}", "rb") as stream:
                    while chunk := stream.read(READ_BYTES):
                        yield chunk

            try:
                manifest = verify(read, ref.manifest_sha256)
            except CheckpointDamaged as damage:
                return Verified(checkpoint.job_id, ref.path, None, str(damage))
        return Verified(checkpoint.job_id, ref.path, manifest, None)

    def logs(self, job: Job, *, attempt: int | None, who: str, cursor: str = "") -> LogPart:
        """The chunks of one process's log that come after the cursor."""
        number = job.attempt if attempt is None else attempt
        if not who.replace("-", "").isalnum():
            raise BadInput(f"{who!r} writes no log", place="who", remedy="driver, rank-0, ...")
        text, size = [], 0
        with opened(self._storage_url, log_folder(job.id, number, who)) as (files, folder):
            files.invalidate_cache()
            try:
                names = sorted(name.rsplit("/", 1)[-1] for name in files.ls(folder, detail=False))
            except FileNotFoundError:
                names = []
            names = [name for name in names if name > cursor and not name.startswith(".")]
            for name in names[:LOG_CHUNKS_MAX]:
                chunk = files.cat_file(f"{folder}/{name}")
                text.append(chunk.decode(errors="replace"))
                cursor, size = name, size + len(chunk)
                if size > LOG_BYTES_MAX:
                    break
        return LogPart(job.id, number, who, "".join(text), cursor)
