"""The node's folder: one process at a file, whole files only, and never more than fits."""

import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from workers.data.node_folder import alone, evict, publish, unfinished

SUFFIX = ".codes"


def _published(folder: Path, name: str, num_bytes: int, used_at: int) -> Path:
    path = folder / f"{name}{SUFFIX}"
    with alone(folder, path.name):
        unfinished(path).write_bytes(bytes(num_bytes))
        publish(path)
    os.utime(path, (used_at, used_at))
    return path


def _is_taken(folder: Path, name: str) -> bool:
    try:
        with alone(folder, name, wait=False):
            return False
    except BlockingIOError:
        return True


def test_whoever_is_at_a_file_is_alone(tmp_path: Path) -> None:
    with alone(tmp_path, "a"), alone(tmp_path, "b"):
        assert _is_taken(tmp_path, "a")
    assert not _is_taken(tmp_path, "a")


def test_who_waited_for_a_lock_that_was_deleted_is_still_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or two would write one file: the one with the deleted lock, and whoever makes a new one."""
    about_to_wait, found = threading.Event(), list[bool]()
    flock = fcntl.flock

    def told(descriptor: Any, mode: int) -> None:
        about_to_wait.set()
        flock(descriptor, mode)

    def wait() -> None:
        with alone(tmp_path, "a"):
            found.append(_is_taken(tmp_path, "a"))

    waiting = threading.Thread(target=wait)
    with alone(tmp_path, "a"):
        monkeypatch.setattr(fcntl, "flock", told)
        waiting.start()
        assert about_to_wait.wait(10.0)  # it has opened the lock
        (tmp_path / "a.lock").unlink()
    waiting.join(10.0)
    assert found == [True]


def test_what_was_used_longest_ago_goes_first_until_the_rest_fits(tmp_path: Path) -> None:
    files = [_published(tmp_path, str(k), 100, used_at=k) for k in range(1, 5)]
    evict(tmp_path, SUFFIX, 250, frozenset({files[0]}))
    assert [path.exists() for path in files] == [True, False, False, True]
    locks = {path.name for path in tmp_path.glob("*.lock")}
    assert locks == {f"1{SUFFIX}.lock", f"4{SUFFIX}.lock"}


def test_a_file_that_someone_is_at_is_left_alone(tmp_path: Path) -> None:
    old, new = (_published(tmp_path, str(k), 100, used_at=k) for k in (1, 2))
    with alone(tmp_path, old.name):
        evict(tmp_path, SUFFIX, 100, frozenset())
    assert (old.exists(), new.exists()) == (True, False)


def test_the_part_of_a_dead_process_is_deleted_and_that_of_a_living_one_is_not(
    tmp_path: Path,
) -> None:
    dead, living = (tmp_path / f"{name}{SUFFIX}" for name in ("dead", "living"))
    for path in (dead, living):
        unfinished(path).write_bytes(b"half")
    with alone(tmp_path, living.name):
        evict(tmp_path, SUFFIX, 1000, frozenset())
        assert [unfinished(path).exists() for path in (dead, living)] == [False, True]
