"""A folder of this node for what can be had again: the same for all jobs, and bounded.

What lies there was moved into place whole. Whoever looks may find it gone, so it is opened first
and measured afterwards; an open file outlives its deletion.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "STRATA_NODE_CACHE"


def node_folder(purpose: str) -> Path:
    """Return the folder of one purpose, made if need be: readable by this user alone."""
    root = os.environ.get(VARIABLE)
    base = Path(root) if root else Path(tempfile.gettempdir()) / f"strata-{os.getuid()}"
    folder = base / purpose
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Within the block no other process of this node is in a block of the same name."""
    import fcntl

    with (folder / f"{name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # let go when the stream is closed, or its process ends
        yield


def publish(unfinished: Path, path: Path) -> None:
    """Move a whole file into place, durable."""
    with unfinished.open("rb") as stream:
        os.fsync(stream.fileno())
    unfinished.replace(path)


def evict(folder: Path, suffix: str, bytes_max: int, keep: frozenset[Path]) -> None:
    """Delete files from the one that was used longest ago, until the rest fits."""
    files = []
    for path in folder.glob(f"*{suffix}"):
        with suppress(FileNotFoundError):
            found = path.stat()
            files.append((found.st_mtime, found.st_size, path))
    excess = sum(size for _, size, _ in files) - bytes_max
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        if path in keep:
            continue
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        excess -= size


def touch(path: Path) -> None:
    """Say that a file was used just now."""
    with suppress(FileNotFoundError):
        os.utime(path)
