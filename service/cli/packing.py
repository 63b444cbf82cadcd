"""Packs the folder that a job file names under `code`, and brings it to the server."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.cli.door import ServerDoor
from service.domain.errors import BadInput
from workers.contract.code import FILES_MAX, OURS, PACK_BYTES_MAX, pack_name, sha256_of_pack

LEFT_OUT = frozenset({"__pycache__", ".git", ".venv", ".mypy_cache", ".ruff_cache"})
FILE_MODE = 0o644


def with_code_packed(door: ServerDoor, spec: dict[str, Any], beside: Path) -> dict[str, Any]:
    """Return the spec with its code packed and uploaded; as it is where it names none.

    Args:
        door: the server that keeps the pack.
        spec: the job as JSON.
        beside: the job file's folder, from which `code` is meant.

    Raises:
        BadInput: the folder is missing, too large, or hides a package of Strata.
    """
    code = spec.get("code")
    if code is None or sha256_of_pack(code) is not None:
        return spec
    content = pack(beside / code)
    sha256 = hashlib.sha256(content).hexdigest()
    door.client.put(f"/v1/code/{sha256}", content)
    return {**spec, "code": pack_name(sha256)}


def pack(folder: Path) -> bytes:
    """Return the pack of a folder: the same bytes for the same files, wherever and whenever."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder", place="code", remedy="name one beside the job")
    files = sorted(_files(folder))
    hidden = {path.relative_to(folder).parts[0].removesuffix(".py") for path in files} & OURS
    if hidden:
        raise BadInput(
            f"has a top-level {min(hidden)!r}, which would hide Strata's own",
            place="code",
            remedy="give it another name",
        )
    if not files or len(files) > FILES_MAX:
        raise BadInput(
            f"{folder} has {len(files)} files; 1 to {FILES_MAX} can be packed",
            place="code",
            remedy="name the folder of your modules alone",
        )
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in files:
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.size, entry.mode = path.stat().st_size, FILE_MODE
            with path.open("rb") as file:
                tar.addfile(entry, file)
    if packed.tell() > PACK_BYTES_MAX:
        raise BadInput(
            f"{folder} packs into {packed.tell()} bytes, more than {PACK_BYTES_MAX}",
            place="code",
            remedy="leave data out of it: put that into the storage",
        )
    return packed.getvalue()


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in LEFT_OUT or path.is_symlink():
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path
