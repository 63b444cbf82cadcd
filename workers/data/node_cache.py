"""Files of a far storage, fetched once for all ranks of a node, and read from its disk.

A copy's name is a hash of the URL and of what the storage says of the file, so a changed one is
fetched anew. What lies on this machine already is read in place.
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.data.node_folder import alone, evict, node_folder, publish, touch, unfinished

FILES_BYTES_MAX = 100 * 2**30  # of a node; what was used longest ago goes first
SUFFIX = ".file"
VERSION_KEYS = ("ETag", "etag", "version_id", "md5Hash", "mtime", "LastModified", "created", "size")
USES_MAX = 5  # a copy that is gone again so often has no room beside what others fetch

T = TypeVar("T")


def with_copy(url: str, use: Callable[[Path], T], *, anew: bool = False) -> T | None:
    """Return what `use` makes of where the content of a URL lies on this machine; None: nowhere.

    What it opens outlives the copy's eviction. It may be called more than once: others' files may
    take the copy's room before it opens anything.

    Args:
        url: any that fsspec opens.
        use: opens the file.
        anew: fetch the file even if there is a copy.

    Raises:
        ConfigFailure: there is nothing that could open the URL.
        StorageFailure: storage can't be read, or the node's disk is full.
    """
    for _ in range(USES_MAX):
        path = _copy(url, anew)
        if path is None:
            return None
        try:
            return use(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StorageFailure(f"{url} can't be read: {error}") from error
    raise StorageFailure(
        f"{url}: its copy on this node was evicted {USES_MAX} times before it could be opened; run "
        "fewer jobs with large files on a node"
    )


def open_copy(url: str) -> BinaryIO | None:
    """Return an open file with the content of a URL; None where there is none. Raises the same."""
    return with_copy(url, lambda path: path.open("rb"))


def stamp_of(path: Path) -> str:
    """Return a text that changes with the content of a file, such as `with_copy` finds."""
    if path.suffix == SUFFIX and path.parent == node_folder("files"):
        return path.name  # that of a copy says it; its time, when it was used last
    found = path.stat()
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def listed(url: str, depth: int | None = None) -> dict[str, dict[str, Any]]:
    """Return what storage says of each file below a URL, by its path below it; {}: there is none.

    A URL of a file gives that file, by "".

    Args:
        url: any that fsspec opens.
        depth: how many folders deep; None: all.

    Raises:
        ConfigFailure: there is nothing that could open the URL.
        StorageFailure: storage can't be read.
    """
    system, root = file_system(url)
    try:
        found: dict[str, dict[str, Any]] = system.find(root, maxdepth=depth, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as error:  # object stores' libraries have errors of their own
        raise StorageFailure(f"{url} can't be listed: {error}") from error
    return {name[len(root) :].lstrip("/"): found[name] for name in sorted(found)}


def file_system(url: str) -> tuple[Any, str]:
    """Return a file system, and the path of the URL in it.

    Raises:
        ConfigFailure: there is nothing that could open the URL.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # an unknown protocol, or its package is missing
        raise ConfigFailure(f"data.path: {url} can't be opened: {error}") from error
    return system, path.rstrip("/")


def _copy(url: str, anew: bool) -> Path | None:
    """Where the content of a URL lies on this machine, fetched if need be; None: nowhere."""
    system, path = file_system(url)
    if _is_local(system):
        return Path(path) if Path(path).is_file() else None
    try:
        return _fetched(system, path, url, anew)
    except FileNotFoundError:
        return None
    except Exception as error:  # object stores' libraries have errors of their own
        raise StorageFailure(f"{url} can't be fetched to this node: {error}") from error


def _is_local(system: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(system, LocalFileSystem)


def _fetched(system: Any, path: str, url: str, anew: bool) -> Path:
    found = system.info(path)
    if found["type"] != "file":
        raise FileNotFoundError(url)
    version = [f"{key}={found[key]}" for key in VERSION_KEYS if key in found]
    name = hashlib.sha256("\n".join([url, *version]).encode()).hexdigest() + SUFFIX
    folder = node_folder("files")
    copy = folder / name
    with alone(folder, name):
        if anew or not copy.exists():
            evict(folder, SUFFIX, FILES_BYTES_MAX, frozenset(), room=found.get("size") or 0)
            try:
                with system.open(path, "rb") as source, unfinished(copy).open("wb") as into:
                    shutil.copyfileobj(source, into, length=2**20)
                publish(copy)
            finally:
                unfinished(copy).unlink(missing_ok=True)
    touch(copy)
    return copy
