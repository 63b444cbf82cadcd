"""The storage as the service reaches it: opened in one place, which says why it can't be."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.domain.errors import Refusal, Unreachable
from workers.contract.paths import join

if TYPE_CHECKING:  # fsspec is imported where a file is read: most commands read none
    from fsspec import AbstractFileSystem


@contextmanager
def opened(storage_url: str, path: str) -> "Iterator[tuple[AbstractFileSystem, str]]":
    """Give the file system and the place in it of a path below the storage root.

    Raises:
        Unreachable: whatever its library raises within the block, but FileNotFoundError, which
            is an answer.
    """
    from fsspec.core import url_to_fs

    try:
        yield url_to_fs(join(storage_url, path))
    except (Refusal, FileNotFoundError):
        raise
    except Exception as error:  # each storage's library has kinds of its own
        raise Unreachable(
            f"the storage at {storage_url} refuses: {error}",
            remedy="is STRATA_STORAGE_URL right, and is its library installed?",
        ) from error
