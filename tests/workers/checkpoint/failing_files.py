"""A local file system, `failing://`, on which chosen writes or all reads fail."""

import errno
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileOpener, LocalFileSystem


class FailingFiles(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The n-th file that this process opens for writing is on a full disk."""

    protocol = "failing"
    fail_on_write: int | None = None  # counted from 1, since `arm`
    fail_on_read = False
    num_writes = 0
    num_failures = 0

    @classmethod
    def arm(cls, *, write: int | None = None, read: bool = False) -> None:
        fsspec.register_implementation("failing", cls, clobber=True)
        cls.fail_on_write, cls.fail_on_read = write, read
        cls.num_writes = cls.num_failures = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("failing://")))

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        files = type(self)
        if mode == "wb":
            files.num_writes += 1
            if files.num_writes == files.fail_on_write:
                return _FullDisk(path, mode, fs=self)
        elif files.fail_on_read:
            files.num_failures += 1
            raise PermissionError(errno.EACCES, "the credentials have expired")
        return super()._open(path, mode, **kwargs)


class _FullDisk(LocalFileOpener):  # type: ignore[misc]  # fsspec has no types
    def write(self, *_args: object) -> int:
        FailingFiles.num_failures += 1
        raise OSError(errno.ENOSPC, "No space left on device")
