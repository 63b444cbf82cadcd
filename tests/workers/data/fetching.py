"""Processes that fetch from a storage which stops half-way; in a module of its own, to be found."""

import io
import os
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from workers.data.node_cache import open_copy
from workers.data.node_folder import VARIABLE

CONTENT = b"0123456789" * 1000
URL = "slow://files/one"


class Slow(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A storage with one file, of which the second half comes when somebody allows it."""

    protocol = "slow"
    cachable = False
    gate: Any = None  # (half was given, the rest may be given): two events

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "type": "file", "size": len(CONTENT), "etag": "first"}

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return _Half()


class _Half(io.RawIOBase):
    """Gives half of the content, waits, and gives the rest."""

    def __init__(self) -> None:
        super().__init__()
        self._given = 0

    def read(self, size: int = -1) -> bytes:
        half = len(CONTENT) // 2
        if self._given == half and Slow.gate is not None:
            half_was_given, rest_may_be_given = Slow.gate
            half_was_given.set()
            rest_may_be_given.wait()
        self._given += half
        return CONTENT[self._given - half : self._given]


def fetch(node: Path, gate: Any, answers: Any) -> None:
    """Fetch the file in this process; answer with what it holds and who fetched it."""
    os.environ[VARIABLE] = str(node)
    fsspec.register_implementation("slow", Slow, clobber=True)
    Slow.gate = gate
    stream = open_copy(URL)
    assert stream is not None
    with stream:
        answers.put((os.getpid(), stream.read(), os.fstat(stream.fileno()).st_ino))
