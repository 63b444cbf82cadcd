"""A checkpoint's folder on any fsspec URL: its files are durable and hashed once written."""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from workers.contract.manifest import ManifestFile
from workers.contract.outcome import StorageFailure
from workers.contract.paths import join

CHUNK_BYTES = 4 * 1024 * 1024  # one read: few requests to an object store, little memory
STATE = "state.json"
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
"""They know no folders; asked for one, their libraries would make a bucket of a mistyped name."""


def rank_file(rank: int) -> str:
    """The file of what belongs to one rank."""
    return f"rank-{rank}.pt"


class Folder:
    """One checkpoint's folder, seen by one process."""

    def __init__(self, storage_url: str, path: str) -> None:
        """Take the folder at `path` below the storage root; touches nothing yet.

        Raises:
            StorageFailure: nothing serves this kind of URL.
        """
        self.path = path
        self._files: dict[str, ManifestFile] = {}
        self._is_ours = False
        with _storage_failures(f"{storage_url} can't be used as storage"):
            self._fs, self._place = url_to_fs(join(storage_url, path))
        self._is_local = isinstance(self._fs, LocalFileSystem)
        protocols = self._fs.protocol
        named = {protocols} if isinstance(protocols, str) else set(protocols)
        self._has_folders = not named & OBJECT_STORES

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        """What this process wrote here, by name."""
        return tuple(self._files[name] for name in sorted(self._files))

    def create(self) -> None:
        """Make the folder; raise StorageFailure if it stands: a name is never used twice."""
        with _storage_failures(f"{self.path} can't be created"):
            if self._has_folders:
                self._fs.makedirs(self._place, exist_ok=False)
            elif self._fs.exists(self._place):
                raise FileExistsError(self._place)
        self._is_ours = True

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Write one file; at the end of the block its bytes are durable and are in `files`.

        Raises:
            StorageFailure: whatever went wrong inside the block. It is always this class, because
                ranks tell it to each other by pickle, which not every library's errors survive.
        """
        with _storage_failures(f"{self.path}/{name} can't be written"):
            with self._fs.open(f"{self._place}/{name}", "wb") as raw:
                stream = _HashedStream(raw)
                try:
                    yield cast("IO[bytes]", stream)  # typeshed keeps IO and io.RawIOBase apart
                except Exception as error:  # noqa: BLE001  # raised again, or its first cause
                    # torch.save goes on after a failed write, to complain of the gap.
                    raise stream.failure or error from None
                if self._is_local:
                    raw.flush()
                    os.fsync(raw.fileno())
            self._files[name] = ManifestFile(
                name=name, bytes=stream.num_bytes, sha256=stream.sha256()
            )

    @contextmanager
    def reading(self, name: str) -> Iterator[IO[bytes]]:
        """Read one file.

        Raises:
            FileNotFoundError, IsADirectoryError, NotADirectoryError: there is no such file.
            StorageFailure: storage can't be read, which says nothing about the checkpoint.
        """
        try:
            stream = self._fs.open(f"{self._place}/{name}", "rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise
        except Exception as error:
            raise StorageFailure(f"{self.path}/{name} can't be read: {error!r}") from error
        with stream:
            try:
                yield stream
            except OSError as error:
                raise StorageFailure(f"{self.path}/{name} can't be read: {error!r}") from error

    def read_chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of one file, as `workers.contract.manifest.ReadChunks`; raises as `reading`."""
        with self.reading(name) as stream:
            while chunk := self._chunk(name, stream):
                yield chunk

    def _chunk(self, name: str, stream: IO[bytes]) -> bytes:
        # Not OSError only: object stores' libraries have errors of their own.
        with _storage_failures(f"{self.path}/{name} can't be read"):
            return stream.read(CHUNK_BYTES)

    def sync(self) -> None:
        """Make the names durable too, up to the storage root, where storage is a local disk."""
        if not self._is_local:
            return
        depth = self.path.count("/") + 1
        with _storage_failures(f"{self.path} can't be synced"):
            for folder in (Path(self._place), *list(Path(self._place).parents)[:depth]):
                handle = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def remove(self) -> None:
        """Remove what `create` made, if storage lets us: a full disk must not stay full of it."""
        if self._is_ours:
            with suppress(Exception):
                self._fs.rm(self._place, recursive=True)


class _HashedStream(io.RawIOBase):
    """Counts and hashes the bytes on their way to storage, before anything can flip them there."""

    def __init__(self, raw: IO[bytes]) -> None:
        super().__init__()
        self._raw = raw
        self._digest = hashlib.sha256()
        self.num_bytes = 0
        self.failure: Exception | None = None  # the first one

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """Write all of `data`, any buffer; return its size in bytes."""
        view = memoryview(data).cast("B")
        try:
            self._raw.write(view)
        except Exception as error:
            self.failure = self.failure or error
            raise
        self._digest.update(view)
        self.num_bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """The number of bytes written so far."""
        return self.num_bytes

    def sha256(self) -> str:
        """The hash of the bytes written so far, in hex."""
        return self._digest.hexdigest()


@contextmanager
def _storage_failures(sentence: str) -> Iterator[None]:
    try:
        yield
    except StorageFailure:
        raise
    except Exception as error:
        raise StorageFailure(f"{sentence}: {error!r}") from error
