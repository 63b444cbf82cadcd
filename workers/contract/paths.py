"""Where everything of a job stands below the storage root, and what may be read at all.

    jobs/<job_id>/attempts/<n>/facts/<seq>.json    facts, written before they are sent
    jobs/<job_id>/attempts/<n>/logs/<who>/<k>.log  chunks of a log in order; who: driver, rank-0 ...
    jobs/<job_id>/tensorboard/events.*             its curves as they came, a file for each attempt
    jobs/<job_id>/profiles/step-<k>-a<n>.json.gz   traces, from this step of this attempt on
    jobs/<job_id>/checkpoints/<stage>-<step>-a<n>/ data files, and manifest.json, written last

Logs are chunks because object stores can't append. All functions are pure: they speak of text only.
"""

import posixpath

from workers.contract.wire import JobId

MANIFEST = "manifest.json"


def attempt_folder(job_id: JobId, attempt: int) -> str:
    """The folder of one attempt's facts and logs."""
    return f"jobs/{job_id}/attempts/{attempt}"


def fact_file(job_id: JobId, attempt: int, seq: int) -> str:
    """The file of one fact; names sort like sequence numbers."""
    return f"{attempt_folder(job_id, attempt)}/facts/{seq:09d}.json"


def log_folder(job_id: JobId, attempt: int, who: str) -> str:
    """The folder of one process's log chunks."""
    return f"{attempt_folder(job_id, attempt)}/logs/{who}"


def tensorboard_folder(job_id: JobId) -> str:
    """Event files, one of each attempt; they are read in the order of their names."""
    return f"jobs/{job_id}/tensorboard"


def profile_file(job_id: JobId, attempt: int, step: int) -> str:
    """The trace that begins with this step; an attempt traces a step once."""
    return f"jobs/{job_id}/profiles/step-{step:09d}-a{attempt}.json.gz"


def checkpoint_folder(job_id: JobId, stage: str, step: int, attempt: int) -> str:
    """A name that is never used twice: a step of a stage is reached once in an attempt."""
    return f"jobs/{job_id}/checkpoints/{stage}-{step:09d}-a{attempt}"


def join(root: str, path: str) -> str:
    """The URL of `path` below the storage root."""
    return f"{root.rstrip('/')}/{path}"


def resolve_data(path: str, storage_url: str, data_roots: tuple[str, ...]) -> str | None:
    """The URL from which a spec's data path is read; None where it lies outside of every root.

    A relative path stands below the storage root. An absolute path or a URL must lie below the
    storage root or below one of the data roots. `..` never climbs out of a root.
    """
    if "::" in path:
        return None  # fsspec would read it as a chain of file systems, one inside the other
    is_absolute = path.startswith("/") or "://" in path
    url = normalize(path) if is_absolute else normalize(join(storage_url, path))
    roots = (storage_url, *data_roots) if is_absolute else (storage_url,)
    if any(_lies_below(url, normalize(root)) for root in roots):
        return url
    return None


def normalize(url: str) -> str:
    """A URL with its `.` and `..` resolved; a local path becomes `file:///...`.

    Not by urllib: to fsspec `?` and `#` are letters of a file's name.
    """
    scheme, _, rest = url.partition("://") if "://" in url else ("file", "", url)
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}{posixpath.normpath('/' + path.lstrip('/'))}"


def _lies_below(url: str, root: str) -> bool:
    return url == root or url.startswith(root.rstrip("/") + "/")
