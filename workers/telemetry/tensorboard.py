"""Writes the curves beside the attempts' files as they come, for a TensorBoard that looks on."""

import math
import time
from pathlib import Path

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from workers.contract.launch import LaunchSpec
from workers.contract.paths import join, tensorboard_folder
from workers.contract.reports import (
    FIGURES,
    FactBody,
    Noticed,
    ProfileOrder,
    Progress,
    StageStarted,
    StopOrder,
)
from workers.telemetry.event_file import EventFile
from workers.telemetry.listener import Listener

NOT_WRITTEN = "tensorboard_not_written"


def writing_curves(launch: LaunchSpec, listener: Listener) -> Listener:
    """The listener, which from now on writes curves too; where that can't be, it says so.

    An event file grows by appending, which only folders can do; no training fails for want of it.
    """
    url = join(launch.storage_url, tensorboard_folder(launch.job_id))
    files, path = url_to_fs(url)
    if not isinstance(files, LocalFileSystem):
        return _refused(
            listener,
            f"{launch.storage_url} can't append to files, so training.tensorboard writes none; "
            "`strata metrics JOB --tensorboard DIR` writes the same curves.",
        )
    try:
        file = EventFile(Path(path), launch.attempt)
    except OSError as error:
        return _refused(listener, f"The curves are not written for TensorBoard: {error}.")
    return CurveFile(listener, file, is_first=launch.attempt == 1)


def _refused(listener: Listener, sentence: str) -> Listener:
    listener.tell(Noticed(code=NOT_WRITTEN, sentence=sentence))
    return listener


class CurveFile:
    """A listener that writes each progress into an event file, and passes everything on.

    Args:
        listener: who is told.
        file: the attempt's own.
        is_first: whether no earlier attempt has told a step.
    """

    def __init__(self, listener: Listener, file: EventFile, *, is_first: bool) -> None:
        self._listener = listener
        self._file: EventFile | None = file  # None once it could not be written
        self._stage = ""
        # Of the last progress; a later one at or before it makes what was written void.
        self._step: float = -1 if is_first else math.inf

    def tell(self, fact: FactBody) -> None:
        """Write what is a curve, and pass it on."""
        if isinstance(fact, StageStarted):
            self._stage = fact.name
        elif isinstance(fact, Progress):
            self._write(fact)
        self._listener.tell(fact)

    def advance(self, step: int) -> None:
        """Pass it on."""
        self._listener.advance(step)

    def phase(self, name: str) -> None:
        """Pass it on."""
        self._listener.phase(name)

    def stop_order(self) -> StopOrder | None:
        """What the listener knows."""
        return self._listener.stop_order()

    def profile_order(self) -> ProfileOrder | None:
        """What the listener knows."""
        return self._listener.profile_order()

    def _write(self, progress: Progress) -> None:
        if self._file is None:
            return
        values = {name: getattr(progress, name) for name in FIGURES} | progress.metrics
        finite = {
            f"{self._stage}/{name}": value
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        }
        now = time.time()
        try:
            if progress.step <= self._step:  # gone back: by a resume, or by a rollback
                self._file.restart(now, progress.step)
            self._file.add(now, progress.step, finite)
        except OSError as error:
            self._file = None
            _refused(self._listener, f"The curves are no longer written for TensorBoard: {error}.")
        self._step = progress.step
