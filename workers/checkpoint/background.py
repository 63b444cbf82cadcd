"""Saves in the background: training waits for a copy of its tensors, not for storage.

    begin()        the copy into kept memory is begun, in a thread
    wait_staged()  right before the tensors change, at the next optimizer step: the copy is done
    (a thread)     the copy is written, hashed, agreed on over ranks, its manifest last
    landed()       the fact, or why there is none; at the next save at the latest

At most one save is under way, because the copy's memory is used again by the next one. The threads
of the ranks meet in a process group of their own: the training's collectives go on meanwhile.
"""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from workers.checkpoint.writer import CheckpointWriter, SavePoint
from workers.contract.outcome import StorageFailure
from workers.contract.reports import CheckpointWritten

if TYPE_CHECKING:
    from torch.distributed.checkpoint.staging import DefaultStager

LAST_SECONDS = 60.0  # what a training that failed waits for its last save: a stop's grace


@dataclass(frozen=True)
class Landed:
    """How a save ended; the same on every rank but for `written`, which rank 0 has."""

    written: CheckpointWritten | None = None
    failure: StorageFailure | None = None


class BackgroundSaves:
    """One rank's saves of one attempt; every rank calls all but `poll` at the same steps.

    Args:
        writer: writes them; for a save that is waited for, call it directly.
    """

    def __init__(self, writer: CheckpointWriter) -> None:
        self.writer = writer
        self.num_failed = 0  # saves in a row
        self._stager: DefaultStager | None = None
        self._group: dist.ProcessGroup | None = None
        self._staged: Future[dict[str, Any]] | None = None
        self._flight: Future[CheckpointWritten | None] | None = None
        self._stall_seconds = 0.0  # of the save that is under way

    def begin(self, point: SavePoint, tensors: dict[str, Any], begun_at: float) -> None:
        """Begin a save; nothing may be under way. Collective where it is the first.

        Args:
            point: what to save beside the tensors; it is copied or never changes.
            tensors: they may not change before `wait_staged`.
            begun_at: since when training waits for this save, by `time.perf_counter`.
        """
        assert self._flight is None, "the last save has landed"
        stager = self._prepared()
        staged = stager.stage(tensors)
        assert isinstance(staged, Future)
        self._staged, self._flight = staged, Future()
        arguments = (point, staged, self._flight, begun_at)
        # A daemon, so that storage that hangs can't keep a process that is told to end.
        threading.Thread(target=self._fly, args=arguments, name="save", daemon=True).start()
        self._stall_seconds = time.perf_counter() - begun_at

    def wait_staged(self) -> None:
        """Return when the tensors may change; costs nothing where no save was begun."""
        if self._staged is None:
            return
        waited_from = time.perf_counter()
        staged, self._staged = self._staged, None
        staged.result()
        self._stall_seconds += time.perf_counter() - waited_from

    def poll(self) -> CheckpointWritten | None:
        """Return the fact of a save that is durable now, once; never waits, and needs no one."""
        flight = self._flight
        if flight is None or not flight.done() or flight.exception() is not None:
            return None  # a failure is kept for `landed`, where all ranks learn of it together
        written = flight.result()
        if written is None:
            return None
        self._flight, self.num_failed = None, 0
        return self._with_stall(written)

    def landed(self, seconds: float | None = None) -> Landed:
        """Wait for the save that is under way, if one is, and say how it ended.

        Raises:
            TimeoutError: it has not ended after so many seconds.
        """
        if self._flight is None:
            return Landed()
        self.wait_staged()
        waited_from = time.perf_counter()
        try:
            written = self._flight.result(seconds)
        except StorageFailure as failure:
            self._flight = None
            self.num_failed += 1
            return Landed(failure=failure)
        self._flight, self.num_failed = None, 0
        self._stall_seconds += time.perf_counter() - waited_from
        return Landed(written=self._with_stall(written) if written is not None else None)

    def close(self) -> None:
        """Let go of the copy's memory and of the group; nothing may be under way."""
        assert self._flight is None, "the last save has landed"
        if self._stager is not None:
            self._stager.close()
            self._stager = None
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def _prepared(self) -> "DefaultStager":
        if self._stager is not None:
            return self._stager
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions  # 1 s

        has_cuda = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=has_cuda,
                use_shared_memory=False,  # no other process reads it
                use_async_staging=True,
                use_non_blocking_copy=has_cuda,
            )
        )
        if self.writer.world_size > 1:
            self._group = dist.new_group(backend="gloo")
        return self._stager

    def _fly(
        self,
        point: SavePoint,
        staged: Future[dict[str, Any]],
        flight: Future[CheckpointWritten | None],
        begun_at: float,
    ) -> None:
        try:
            flight.set_result(self.writer.save(point, staged.result(), begun_at, self._group))
        except BaseException as error:  # noqa: BLE001  # raised by `landed`, in the training's thread
            flight.set_exception(error)

    def _with_stall(self, written: CheckpointWritten) -> CheckpointWritten:
        return written.model_copy(update={"stall_seconds": self._stall_seconds})
