"""Unpacks a user's code on this node, once for all ranks and jobs, and lets Python find it.

The user's code runs with all rights of its gang, so there is nothing to hide from it; but a pack
may not write outside of its folder, nor fill the disk, nor stand before our own packages.
"""

import hashlib
import io
import os
import shutil
import stat
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from workers.contract.code import (
    FILES_MAX,
    OURS,
    UNPACKED_BYTES_MAX,
    pack_file,
    sha256_of_pack,
)
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.contract.paths import join


def use_code(name: str, storage_url: str, cache: Path | None = None) -> Path:
    """Unpack a recipe's `code`, if this node has not yet, and put it behind what Python looks at.

    Args:
        name: what the recipe says under `code`.
        storage_url: the storage root.
        cache: where packs are unpacked; by default a folder of this user's in the temporary one.

    Returns:
        The folder.

    Raises:
        ConfigFailure: there is no such pack, or it is none.
        StorageFailure: storage can't be read, or gave another content; or this node's disk can't be
            written.
    """
    sha256 = sha256_of_pack(name)
    if sha256 is None:
        raise ConfigFailure(f"code: {name!r} is no packed code; submit it by the command line")
    folder = (cache or _own_folder()) / sha256
    if not folder.exists():
        _unpack(_read(storage_url, sha256), folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # behind: it hides nothing of ours
    inherited = os.environ.get("PYTHONPATH", "")
    if str(folder) not in inherited.split(os.pathsep):  # for processes that decode data
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (inherited, str(folder))))
    return folder


def _own_folder() -> Path:
    """A folder that no other user of this node could have filled: what lies in it is run."""
    folder = Path(tempfile.gettempdir()) / f"strata-code-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StorageFailure(
            f"{folder} may be written by other users of this node; remove it, or set TMPDIR to a "
            "folder of your own"
        )
    return folder


def _read(storage_url: str, sha256: str) -> bytes:
    import fsspec

    url = join(storage_url, pack_file(sha256))
    try:
        with fsspec.open(url, "rb") as stream:
            content: bytes = stream.read()
    except FileNotFoundError as error:
        raise ConfigFailure(f"code: there is no {url}; submit the folder anew") from error
    except OSError as error:
        raise StorageFailure(f"{url} can't be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise StorageFailure(f"{url} is not what was submitted")
    return content


def _unpack(content: bytes, folder: Path) -> None:
    """Unpack beside, then move into place whole: another rank may be as quick."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            for entry in _checked(tar):
                target = beside / entry.name
                target.parent.mkdir(parents=True, exist_ok=True)
                file = tar.extractfile(entry)
                assert file is not None
                with target.open("wb") as written:
                    shutil.copyfileobj(file, written)
        try:
            beside.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    except (tarfile.TarError, EOFError) as error:
        raise ConfigFailure(f"code: the pack can't be read: {error}") from error
    except OSError as error:
        raise StorageFailure(f"code can't be unpacked to {folder}: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _checked(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """The files of a pack: plain ones, inside of their folder, few and small enough."""
    files: list[tarfile.TarInfo] = []
    num_bytes = 0
    for entry in tar:
        path = PurePosixPath(entry.name)
        if entry.isdir():
            continue
        if not entry.isfile() or path.is_absolute() or ".." in path.parts:
            raise ConfigFailure(f"code: {entry.name!r} is no plain file inside of its folder")
        if path.parts[0].removesuffix(".py") in OURS:
            raise ConfigFailure(f"code: a top-level {path.parts[0]!r} would hide Strata's own")
        files.append(entry)
        num_bytes += entry.size
        if len(files) > FILES_MAX or num_bytes > UNPACKED_BYTES_MAX:
            raise ConfigFailure(
                f"code: more than {FILES_MAX} files or {UNPACKED_BYTES_MAX} bytes; leave data out"
            )
    return files
