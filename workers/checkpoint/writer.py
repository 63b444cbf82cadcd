"""Writes checkpoints: the data first, the manifest last, the fact only when all of it is durable.

What stands in a checkpoint's folder:

    __<rank>_0.distcp, .metadata  the tensors, by torch.distributed.checkpoint
    rank-<rank>.pt                what belongs to one rank: generators' states, persistent chains
    state.json                    where the training was; the same for every rank
    manifest.json                 which files there are and what they hash to
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from workers.checkpoint.agreement import failing_together, gathered
from workers.checkpoint.folder import STATE, Folder, rank_file
from workers.contract.manifest import Manifest, ManifestFile
from workers.contract.outcome import StorageFailure
from workers.contract.paths import MANIFEST, checkpoint_folder
from workers.contract.reports import CheckpointRef, CheckpointWritten
from workers.contract.wire import JobId


@dataclass(frozen=True)
class SavePoint:
    """What a checkpoint is called and holds, less its tensors.

    Args:
        stage_index: the stage, from 0.
        stage: its name.
        step: optimizer steps of the whole job; a (stage, step) is saved once in an attempt.
        state: what JSON can say, the same on every rank; tuples come back as lists.
        rank_tensors: this rank's own, of any shapes; only what `weights_only` loads.
        figure: how good the net is, where that was measured; told with the fact.
    """

    stage_index: int
    stage: str
    step: int
    state: dict[str, Any]
    rank_tensors: dict[str, Any]
    figure: float | None = None


class CheckpointWriter:
    """One rank's part in saving the checkpoints of one attempt."""

    def __init__(
        self, storage_url: str, job_id: JobId, attempt: int, rank: int, world_size: int
    ) -> None:
        self.world_size = world_size
        self._storage_url = storage_url
        self._job_id = job_id
        self._attempt = attempt
        self._rank = rank

    def save(
        self,
        point: SavePoint,
        tensors: dict[str, Any],
        begun_at: float | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> CheckpointWritten | None:
        """Save one checkpoint; every rank calls it, at the same step.

        With a world size above 1 the ranks meet in `group`, or in the default one; with 1 there may
        be none.

        Args:
            point: what else the checkpoint holds.
            tensors: nested dicts of tensors and numbers, replicated over ranks or DTensors.
            begun_at: since when the save lasts, by `time.perf_counter`; now, unless given.
            group: a gloo group of all ranks.

        Returns:
            The fact on rank 0, None on the others; it counts what the manifest lists.

        Raises:
            StorageFailure: on every rank alike, if any rank could not write. No manifest stands.
        """
        from workers.checkpoint.tensors import save_tensors  # imports DCP: 0.4 s

        started = time.perf_counter() if begun_at is None else begun_at
        state_json = json.dumps(point.state).encode()  # first: its mistakes are every rank's
        path = checkpoint_folder(self._job_id, point.stage, point.step, self._attempt)
        with failing_together(self.world_size, group):
            folder = Folder(self._storage_url, path)
        try:
            save_tensors(folder, tensors, self.world_size, group)
            with failing_together(self.world_size, group):
                self._write_own(folder, state_json, point.rank_tensors)
            by_rank = gathered(folder.files, self.world_size, group)
            manifest = self._manifest(point, [file for own in by_rank for file in own])
            manifest_json = manifest.model_dump_json().encode()
            with failing_together(self.world_size, group):
                self._commit(folder, manifest_json)
        except StorageFailure:
            folder.remove()
            raise
        if self._rank != 0:
            return None
        sha256 = hashlib.sha256(manifest_json).hexdigest()
        told = _told(path, manifest, sha256, time.perf_counter() - started)
        return told.model_copy(update={"figure": point.figure})

    def _manifest(self, point: SavePoint, files: Sequence[ManifestFile]) -> Manifest:
        return Manifest(
            job_id=self._job_id,
            attempt=self._attempt,
            stage_index=point.stage_index,
            stage=point.stage,
            step=point.step,
            world_size=self.world_size,
            files=tuple(sorted(files, key=lambda file: file.name)),
        )

    def _write_own(self, folder: Folder, state_json: bytes, rank_tensors: dict[str, Any]) -> None:
        if rank_tensors:
            with folder.writing(rank_file(self._rank)) as stream:
                torch.save(rank_tensors, stream)
        if self._rank == 0:
            with folder.writing(STATE) as stream:
                stream.write(state_json)

    def _commit(self, folder: Folder, manifest_json: bytes) -> None:
        if self._rank == 0:
            with folder.writing(MANIFEST) as stream:
                stream.write(manifest_json)
            folder.sync()


def _told(path: str, manifest: Manifest, sha256: str, seconds: float) -> CheckpointWritten:
    return CheckpointWritten(
        ref=CheckpointRef(
            path=path,
            manifest_sha256=sha256,
            stage_index=manifest.stage_index,
            stage=manifest.stage,
            step=manifest.step,
            attempt=manifest.attempt,
        ),
        bytes=sum(file.bytes for file in manifest.files),
        files=len(manifest.files),
        save_seconds=seconds,
        stall_seconds=seconds,
    )
