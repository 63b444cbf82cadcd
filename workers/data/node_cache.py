"""Files of a far storage, fetched once for all ranks of a node, and read from its disk.

A copy's name is a hash of the URL and of what the storage says of the file, so a changed one is
fetched anew. What lies on this machine already is read in place.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.data.node_folder import alone, evict, node_folder, publish, touch, unfinished

FILES_BYTES_MAX = 100 * 2**30  # of a node; what was used longest ago goes first
SUFFIX = ".file"
VERSION_KEYS = ("ETag", "etag", "version_id", "md5Hash", "mtime", "LastModified", "created", "size")


def local_copy(url: str) -> Path:
    """Return where the content of a URL lies on this machine; fetched if need be.

    An open file outlives the copy's eviction: open it before anything else is fetched.

    Raises:
        ConfigFailure: there is no such file, or nothing that could open the URL.
        StorageFailure: storage can't be read, or the node's disk is full.
    """
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # an unknown protocol, or its package is missing
        raise ConfigFailure(f"data.path: {url} can't be opened: {error}") from error
    if isinstance(system, LocalFileSystem):
        if not Path(path).is_file():
            raise ConfigFailure(f"data.path: there is no file {url}; check the path")
        return Path(path)
    try:
        return _fetched(system, path, url)
    except FileNotFoundError as error:
        raise ConfigFailure(f"data.path: there is no file {url}; check the path") from error
    except OSError as error:
        raise StorageFailure(f"{url} can't be fetched to this node: {error}") from error


def _fetched(system: Any, path: str, url: str) -> Path:
    found = system.info(path)
    version = [f"{key}={found[key]}" for key in VERSION_KEYS if key in found]
    name = hashlib.sha256("\n".join([url, *version]).encode()).hexdigest() + SUFFIX
    folder = node_folder("files")
    copy = folder / name
    with alone(folder, name):
        if not copy.exists():
            try:
                with system.open(path, "rb") as source, unfinished(copy).open("wb") as into:
                    shutil.copyfileobj(source, into, length=2**20)
                publish(copy)
            finally:
                unfinished(copy).unlink(missing_ok=True)
            evict(folder, SUFFIX, FILES_BYTES_MAX, frozenset({copy}))
    touch(copy)
    return copy
