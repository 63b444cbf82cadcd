"""The manifest of a checkpoint: which files it has and what their bytes must hash to.

A checkpoint is whole when its manifest stands, because the manifest is written last. It is the
right one when the manifest's own hash equals the one in the database row; its files are right when
they hash to what the manifest says. All three are compared before anything is loaded, because a
flipped bit in a checkpoint loads silently.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import Field, ValidationError

from workers.contract.paths import MANIFEST
from workers.contract.wire import CONTRACT_VERSION, JobId, Message

ReadChunks = Callable[[str], Iterable[bytes]]
"""Give the bytes of one file of the checkpoint, in chunks; raise OSError where it can't."""


class ManifestFile(Message):
    """One file of a checkpoint."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_.-]*$")]
    bytes: int
    sha256: str


class Manifest(Message):
    """What `manifest.json` says."""

    version: int = CONTRACT_VERSION
    job_id: JobId
    attempt: int
    stage_index: int
    stage: str
    step: int
    world_size: int
    files: tuple[ManifestFile, ...]


class CheckpointDamaged(Exception):
    """A checkpoint is not what it was when it was written; the text names the file."""


def verify(read: ReadChunks, manifest_sha256: str) -> Manifest:
    """Return the manifest if it and all its files are as recorded, else raise CheckpointDamaged."""
    text = b"".join(_read(read, MANIFEST))
    if hashlib.sha256(text).hexdigest() != manifest_sha256:
        raise CheckpointDamaged(f"{MANIFEST} is not the one that was recorded")
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointDamaged(f"{MANIFEST} can't be understood") from error
    for file in manifest.files:
        digest, size = hashlib.sha256(), 0
        for chunk in _read(read, file.name):
            digest.update(chunk)
            size += len(chunk)
        if size != file.bytes:
            raise CheckpointDamaged(f"{file.name} has {size} bytes instead of {file.bytes}")
        if digest.hexdigest() != file.sha256:
            raise CheckpointDamaged(f"{file.name} does not hash to what {MANIFEST} says")
    return manifest


def _read(read: ReadChunks, name: str) -> Iterable[bytes]:
    try:
        yield from read(name)
    except OSError as error:
        raise CheckpointDamaged(f"{name} can't be read: {error}") from error
