"""A folder of this node for what can be had again: the same for all jobs, and bounded.

What lies there was moved into place whole. Whoever looks may find it gone, so it is opened first
and measured afterwards; an open file outlives its deletion. A process that died while it wrote
leaves a part, which the next eviction deletes.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "STRATA_NODE_CACHE"
PART = ".part"


def node_folder(purpose: str) -> Path:
    """Return the folder of one purpose, made if need be: readable by this user alone.

    Raises:
        PermissionError: another user made it, who could put anything there.
    """
    root = os.environ.get(VARIABLE)
    base = Path(root) if root else Path(tempfile.gettempdir()) / f"strata-{os.getuid()}"
    folder = base / purpose
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not root and base.lstat().st_uid != os.getuid():
        raise PermissionError(
            f"{base} belongs to another user; set {VARIABLE} to a folder of yours"
        )
    return folder


@contextmanager
def alone(folder: Path, name: str, *, wait: bool = True) -> Iterator[None]:
    """Within the block no other process of this node is in a block of the same name.

    Raises:
        BlockingIOError: one is, and the caller does not `wait`.
    """
    import fcntl

    lock = _lock(folder / name)
    mode = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        with lock.open("w") as stream:
            fcntl.flock(stream, mode)  # let go when the stream is closed, or its process ends
            if _is_still(lock, stream.fileno()):
                yield
                return


def unfinished(path: Path) -> Path:
    """Return where a file is written before it is moved into place, by who is `alone` with it."""
    return path.with_name(f"{path.name}{PART}")


def publish(path: Path) -> None:
    """Move a file that was `unfinished` into place, durable."""
    with unfinished(path).open("rb") as stream:
        os.fsync(stream.fileno())
    unfinished(path).replace(path)


def evict(
    folder: Path, suffix: str, bytes_max: int, keep: frozenset[Path], *, room: int = 0
) -> None:
    """Delete files from the one that was used longest ago, until the rest fits, and dead parts.

    Args:
        folder: where they lie.
        suffix: of those that it is about.
        bytes_max: how much all may take.
        keep: those that stay.
        room: bytes that will be written next, for which the disk shall have room too.
    """
    for part in folder.glob(f"*{suffix}{PART}"):
        _delete(part.with_name(part.name.removesuffix(PART)))
    files = []
    for path in folder.glob(f"*{suffix}"):
        with suppress(FileNotFoundError):
            found = path.stat()
            files.append((found.st_mtime, found.st_size, path))
    in_all = sum(size for _, size, _ in files)
    excess = max(in_all + room - bytes_max, room - shutil.disk_usage(folder).free)
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        if path not in keep and _delete(path):
            excess -= size


def _delete(path: Path) -> bool:
    """Delete a file, its part and its lock; False where some process is at it just now."""
    try:
        with alone(path.parent, path.name, wait=False):
            path.unlink(missing_ok=True)
            unfinished(path).unlink(missing_ok=True)
            _lock(path).unlink()
    except BlockingIOError:
        return False
    return True


def _lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _is_still(lock: Path, descriptor: int) -> bool:
    """Whether a lock that was waited for is the one that others find: it may have been deleted."""
    with suppress(FileNotFoundError):
        return os.path.samestat(lock.stat(), os.fstat(descriptor))
    return False


def touch(path: Path) -> None:
    """Say that a file was used just now."""
    with suppress(FileNotFoundError):
        os.utime(path)
