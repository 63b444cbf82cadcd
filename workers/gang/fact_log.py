"""Numbers an attempt's facts and keeps those that matter on storage, before anyone hears of them.

What the predecessor could not bring to the service is found here by its successor.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from pydantic import ValidationError

from workers.contract.launch import LaunchSpec
from workers.contract.manifest import CheckpointDamaged, verify
from workers.contract.paths import attempt_folder, fact_file, join
from workers.contract.reports import (
    CheckpointRef,
    CheckpointWritten,
    Fact,
    FactBody,
    GangStarted,
    Progress,
    StageEnded,
)

READ_BYTES = 4 << 20

log = logging.getLogger(__name__)


class FactLog:
    """The facts of this attempt, in order."""

    def __init__(self, launch: LaunchSpec, send: Callable[[Fact], None]) -> None:
        self._launch = launch
        self._send = send
        self._seq = 0

    @property
    def last_seq(self) -> int:
        """The number of the last fact."""
        return self._seq

    def add(self, body: FactBody) -> Fact:
        """Number a fact, write it down unless it is mere progress, and send it."""
        self._seq += 1
        fact = Fact(seq=self._seq, at=datetime.now(UTC), body=body)
        if not isinstance(body, Progress):
            self._write(fact)
        self._send(fact)
        return fact

    def _write(self, fact: Fact) -> None:
        launch = self._launch
        path = join(launch.storage_url, fact_file(launch.job_id, launch.attempt, fact.seq))
        try:
            files, place = url_to_fs(path)
            files.makedirs(place.rpartition("/")[0], exist_ok=True)
            files.pipe_file(place, fact.model_dump_json().encode())
        except Exception as error:  # noqa: BLE001  # it is still sent; only its safety net is lost
            log.warning("the fact %d is not on storage: %r", fact.seq, error)


def inherited(launch: LaunchSpec) -> list[CheckpointWritten | StageEnded]:
    """What the predecessors wrote down and the service does not know, as far as it is whole.

    These are checkpoints newer than those that the launch names, and the ends of their stages. The
    successor tells them under its own numbers, and may resume from them.
    """
    known = launch.resume[0].step if launch.resume else -1
    bodies = _unheard(launch)
    newer = [
        body for body in bodies if isinstance(body, CheckpointWritten) and body.ref.step > known
    ]
    whole = {one.ref.path for one in newer if is_whole(launch.storage_url, one.ref)}
    last = max((one.ref.stage_index for one in newer if one.ref.path in whole), default=-1)
    return [
        body
        for body in bodies
        if (isinstance(body, CheckpointWritten) and body.ref.path in whole)
        or (isinstance(body, StageEnded) and body.index <= last)
    ]


def with_inherited(launch: LaunchSpec, found: Iterable[Any]) -> LaunchSpec:
    """The launch, with the inherited checkpoints before those that it names; newest first."""
    refs = [fact.ref for fact in found if isinstance(fact, CheckpointWritten)]
    newest_first = sorted(refs, key=lambda ref: ref.step, reverse=True)
    return launch.model_copy(update={"resume": (*newest_first, *launch.resume)})


def is_whole(storage_url: str, ref: CheckpointRef) -> bool:
    """True if every byte of the checkpoint is as recorded; no torch needed."""
    files, folder = url_to_fs(join(storage_url, ref.path))

    def read(name: str) -> Iterable[bytes]:
        with files.open(f"{folder}/{name}", "rb") as stream:
            while chunk := stream.read(READ_BYTES):
                yield chunk

    try:
        verify(read, ref.manifest_sha256)
    except CheckpointDamaged as damage:
        log.warning("the predecessor's checkpoint %s is damaged: %s", ref.path, damage)
        return False
    return True


def _unheard(launch: LaunchSpec) -> list[CheckpointWritten | StageEnded]:
    """The predecessors' checkpoints and stage ends, oldest first, each once.

    A gang that was up had told all that it inherited, so no attempt before it has more to say.
    """
    found: list[CheckpointWritten | StageEnded] = []
    for attempt in range(launch.attempt - 1, 0, -1):
        bodies = [fact.body for fact in _facts(launch, attempt)]
        told = [body for body in bodies if isinstance(body, CheckpointWritten | StageEnded)]
        found = [*told, *(body for body in found if body not in told)]
        if any(isinstance(body, GangStarted) for body in bodies):
            break
    return found


def _facts(launch: LaunchSpec, attempt: int) -> Iterable[Fact]:
    """The facts that an attempt wrote down, in order."""
    folder = join(launch.storage_url, f"{attempt_folder(launch.job_id, attempt)}/facts")
    files, place = url_to_fs(folder)
    for name in _names(files, place):
        try:
            yield Fact.model_validate_json(files.cat_file(name))
        except (OSError, ValidationError) as error:
            log.warning("the predecessor's fact %s can't be read: %r", name, error)


def _names(files: AbstractFileSystem, place: str) -> list[str]:
    try:
        return sorted(files.ls(place, detail=False))
    except FileNotFoundError:
        return []
