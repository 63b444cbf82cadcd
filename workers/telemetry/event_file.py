"""TensorBoard's event files. tensorboardX writes them; a record at a time, so that errors are seen.

Its SummaryWriter would hand them to a thread, and where that thread can't write, the training waits
for it for ever.
"""

from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

SUFFIX = ".strata"


class EventFile:
    """One file, which looks as if it were written by one run that never went back.

    Args:
        folder: where; it is made if need be.
        number: tells files of the same second apart; they are read in the order of their names.

    Raises:
        OSError: it can't be written; each method, too.
    """

    def __init__(self, folder: Path, number: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{number:010d}{SUFFIX}")
        self._writer.flush()

    def add(self, at_seconds: float, step: int, values: Mapping[str, float]) -> None:
        """Write one value for each tag; a tag's part before `/` is the group it is shown in.

        `at_seconds` is since 1970.
        """
        told = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(Event(wall_time=at_seconds, step=step, summary=Summary(value=told)))

    def restart(self, at_seconds: float, step: int) -> None:
        """Make what was written of `step` and later steps void."""
        log = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=at_seconds, step=step, session_log=log))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _write(self, event: Event) -> None:
        self._writer.write_event(event)
        self._writer.flush()
