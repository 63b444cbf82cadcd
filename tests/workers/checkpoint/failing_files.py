"""A local file system, `failing://`, on which chosen calls fail."""

import errno
from collections.abc import Container
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileOpener, LocalFileSystem


class FailingFiles(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Chosen files that this process opens for writing are on a full disk; or its n-th call fails.

    A call is a request as an object store would see it: a folder made, a file opened, a file's
    bytes handed over, a file closed. What fails is counted from 1, since `arm`.
    """

    protocol = "failing"
    fail_on_writes: Container[int] = ()
    fail_on_call: int | None = None
    fail_on_read = False
    num_writes = 0
    num_calls = 0
    num_failures = 0

    @classmethod
    def arm(
        cls,
        *,
        write: int | None = None,
        writes: Container[int] = (),
        call: int | None = None,
        read: bool = False,
    ) -> None:
        fsspec.register_implementation("failing", cls, clobber=True)
        cls.fail_on_writes = (write,) if write is not None else writes
        cls.fail_on_call, cls.fail_on_read = call, read
        cls.num_writes = cls.num_calls = cls.num_failures = 0

    @classmethod
    def called(cls) -> None:
        """Count a call; raise, as a library would for an answer that it does not understand."""
        cls.num_calls += 1
        if cls.num_calls == cls.fail_on_call:
            cls.num_failures += 1
            raise RuntimeError(f"503 Slow Down, call {cls.num_calls}")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("failing://")))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        type(self).called()
        super().makedirs(path, exist_ok=exist_ok)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        files = type(self)
        files.called()
        if mode == "wb":
            files.num_writes += 1
            if files.num_writes in files.fail_on_writes:
                return _FullDisk(path, mode, fs=self)
            return _Counted(path, mode, fs=self)
        if files.fail_on_read:
            files.num_failures += 1
            raise PermissionError(errno.EACCES, "the credentials have expired")
        return super()._open(path, mode, **kwargs)


class _FullDisk(LocalFileOpener):  # type: ignore[misc]  # fsspec has no types
    def write(self, *_args: object) -> int:
        FailingFiles.num_failures += 1
        raise OSError(errno.ENOSPC, "No space left on device")


class _Counted(LocalFileOpener):  # type: ignore[misc]  # fsspec has no types
    def write(self, *arguments: Any) -> Any:
        FailingFiles.called()
        return self.f.write(*arguments)

    def close(self) -> None:
        if not self.closed:
            self.f.close()
            FailingFiles.called()
