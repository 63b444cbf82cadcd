"""A process's log on shared storage, as numbered chunks: whoever reads them in order has it all."""

import io
import logging
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from workers.contract.paths import join, log_folder
from workers.contract.wire import JobId

FLUSH_SECONDS = 1.0  # how far a reader may lag behind
LINE_CHARS_MAX = 10_000  # a longer line is a mistake, such as a tensor that was printed
LOG_BYTES_MAX = 64 << 20  # of one process of one attempt

log = logging.getLogger(__name__)


class LogChunks:
    """Collects text and writes it to storage about once a second, from a thread of its own.

    Storage that refuses costs lines, never the training.
    """

    def __init__(self, storage_url: str, job_id: JobId, attempt: int, who: str) -> None:
        self._files, self._folder = url_to_fs(join(storage_url, log_folder(job_id, attempt, who)))
        self._lock = threading.Lock()
        self._text: list[str] = []
        self._line_chars = 0
        self._written_bytes = 0
        self._chunk = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Take text; what is too long is cut."""
        with self._lock:
            for line in text.splitlines(keepends=True):
                room = max(0, LINE_CHARS_MAX - self._line_chars)
                self._text.append(line if len(line) <= room else line[:room] + "...\n"[:room])
                self._line_chars = 0 if line.endswith("\n") else self._line_chars + len(line)
        return len(text)

    def flush(self) -> None:
        """Write what there is."""
        with self._lock:
            text, self._text = "".join(self._text), []
        content = text.encode(errors="replace")
        if not content or self._written_bytes > LOG_BYTES_MAX:
            return
        self._written_bytes += len(content)
        if self._written_bytes > LOG_BYTES_MAX:
            content += f"\n[this log ends here: it passed {LOG_BYTES_MAX} bytes]\n".encode()
        self._chunk += 1
        try:
            self._files.makedirs(self._folder, exist_ok=True)
            self._put(f"{self._chunk:06d}.log", content)
        except Exception as error:  # noqa: BLE001  # any storage's own errors
            print(f"a log chunk is lost: {error!r}", file=sys.__stderr__)

    def _put(self, name: str, content: bytes) -> None:
        """Write a chunk so that a reader sees it whole or not at all, as on object stores."""
        if not isinstance(self._files, LocalFileSystem):
            self._files.pipe_file(f"{self._folder}/{name}", content)
            return
        beside = Path(self._folder) / f".{name}"  # readers pass over hidden names
        beside.write_bytes(content)
        beside.replace(Path(self._folder) / name)

    def close(self) -> None:
        """Write the rest."""
        self._stopping.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._stopping.wait(FLUSH_SECONDS):
            self.flush()


class _Tee(io.TextIOBase):
    """Passes text on and keeps a copy."""

    def __init__(self, stream: io.TextIOBase, chunks: LogChunks) -> None:
        self._stream = stream
        self._chunks = chunks

    def write(self, text: str) -> int:
        self._stream.write(text)
        return self._chunks.write(text)

    def flush(self) -> None:
        self._stream.flush()


def capture(storage_url: str, job_id: JobId, attempt: int, who: str) -> LogChunks:
    """Send this process's stdout, stderr and logging to storage from now on."""
    chunks = LogChunks(storage_url, job_id, attempt, who)
    sys.stdout = _Tee(sys.stdout, chunks)  # type: ignore[arg-type]  # a TextIO at heart
    sys.stderr = _Tee(sys.stderr, chunks)  # type: ignore[arg-type]
    handler = logging.StreamHandler(chunks)
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logger = logging.getLogger("workers")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.info("%s of attempt %d, %s", who, attempt, datetime.now(UTC).date())
    return chunks
