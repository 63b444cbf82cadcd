"""Files of a far storage lie on the node once, whole or not at all, within a bound."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from tests.workers.data.fetching import CONTENT, URL, Slow, fetch
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.data import node_cache
from workers.data.node_cache import USES_MAX, listed, open_copy, with_copy
from workers.data.node_folder import VARIABLE, node_folder, unfinished

SECONDS_MAX = 60.0


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's own folder."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "node"))
    return tmp_path / "node" / "files"


@pytest.fixture
def lake(tmp_path: Path) -> str:
    """The URL of a far storage."""
    return f"memory://{tmp_path.name}"


def _put(url: str, content: bytes) -> None:
    with fsspec.open(url, "wb") as stream:
        stream.write(content)


def _read(url: str) -> bytes:
    stream = open_copy(url)
    assert stream is not None
    with stream:
        return stream.read()


def _copies(node: Path) -> list[Path]:
    return sorted(node.glob("*.file"))


def test_a_file_is_fetched_once_and_anew_where_it_changed(lake: str, node: Path) -> None:
    _put(f"{lake}/a", b"one")
    assert [_read(f"{lake}/a") for _ in range(3)] == [b"one"] * 3
    (copy,) = _copies(node)
    copy.write_bytes(b"ours")
    assert _read(f"{lake}/a") == b"ours"  # it is read here, not there
    assert with_copy(f"{lake}/a", Path.read_bytes, anew=True) == b"one"
    _put(f"{lake}/a", b"other")
    assert _read(f"{lake}/a") == b"other"


def test_what_lies_here_is_read_in_place(tmp_path: Path, node: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    assert with_copy(f"file://{tmp_path}/a", lambda path: path) == tmp_path / "a"
    assert not node.exists()


def test_what_is_not_there_is_none_and_a_folder_is_no_file(lake: str, tmp_path: Path) -> None:
    _put(f"{lake}/folder/a", b"one")
    for url in (f"{lake}/b", f"{lake}/folder", f"{tmp_path}/b", str(tmp_path)):
        assert open_copy(url) is None
    with pytest.raises(ConfigFailure, match="nothing://a can't be opened"):
        open_copy("nothing://a")


def test_files_are_listed_by_their_path_below_a_url(lake: str) -> None:
    for name in ("b", "a", "folder/c"):
        _put(f"{lake}/{name}", b"123")
    assert list(listed(lake)) == ["a", "b", "folder/c"]
    assert list(listed(lake, depth=1)) == ["a", "b"]
    assert list(listed(f"{lake}/a")) == [""]
    assert listed(f"{lake}/nowhere") == {}


def test_what_was_used_longest_ago_makes_room(
    lake: str, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cache, "FILES_BYTES_MAX", 25)
    urls = [f"{lake}/{k}" for k in range(3)]
    for k, url in enumerate(urls):
        _put(url, bytes([k]) * 10)
    for k, url in enumerate(urls[:2]):
        _read(url)
        os.utime(max(_copies(node), key=lambda copy: copy.stat().st_mtime_ns), (k, k))
    first = open_copy(urls[0])  # used just now, so the other one goes
    assert first is not None
    _read(urls[2])
    kept = {copy.read_bytes()[0] for copy in _copies(node)}
    assert kept == {0, 2}
    _read(urls[1])  # and now the first goes, which is still open
    assert {copy.read_bytes()[0] for copy in _copies(node)} == {1, 2}
    with first:
        assert first.read() == bytes(10)
    assert len(list(node.glob("*.lock"))) == 2


def test_a_disk_without_room_is_told(
    lake: str, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(f"{lake}/a", b"one")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(StorageFailure, match=r"a can't be fetched to this node: .*No space left"):
        _read(f"{lake}/a")
    assert _copies(node) == []
    assert list(node.glob("*.part")) == []


def test_a_copy_that_goes_before_it_is_opened_is_fetched_again(lake: str, node: Path) -> None:
    _put(f"{lake}/a", b"one")
    tries = []

    def late(path: Path, num_late: int) -> bytes:
        tries.append(path)
        if len(tries) <= num_late:
            path.unlink()  # as another job's eviction does
        return path.read_bytes()

    assert with_copy(f"{lake}/a", lambda path: late(path, 2)) == b"one"
    assert len(tries) == 3
    tries.clear()
    with pytest.raises(StorageFailure, match="was evicted 5 times"):
        with_copy(f"{lake}/a", lambda path: late(path, USES_MAX))


def test_a_map_outlives_the_eviction_of_its_file(
    lake: str, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cache, "FILES_BYTES_MAX", 1)
    values = np.arange(100_000)
    with fsspec.open(f"{lake}/x.npy", "wb") as stream:
        np.save(stream, values)
    mapped = with_copy(f"{lake}/x.npy", lambda path: np.load(path, mmap_mode="r"))
    assert mapped is not None
    _put(f"{lake}/other", b"one")
    _read(f"{lake}/other")
    assert [copy.read_bytes() for copy in _copies(node)] == [b"one"]
    assert np.array_equal(mapped, values)


def test_a_library_with_errors_of_its_own_is_a_storage_that_fails(
    lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strange(Exception):
        pass

    def broken(*_: Any, **__: Any) -> Any:
        raise Strange("no credentials")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", broken)
    with pytest.raises(StorageFailure, match="no credentials"):
        open_copy(f"{lake}/a")


def test_a_folder_that_another_user_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    user = os.getuid()
    assert node_folder("files").is_relative_to(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    (tmp_path / f"strata-{user + 1}").mkdir()
    with pytest.raises(PermissionError, match="belongs to another user"):
        node_folder("files")


@pytest.fixture
def storage() -> Any:
    """Ways to start processes that fetch, and to let them go on."""
    context = multiprocessing.get_context("spawn")
    gate = (context.Event(), context.Event())
    answers = context.Queue()
    started = []

    def start(node: Path) -> Any:
        process = context.Process(target=fetch, args=(node, gate, answers))
        process.start()
        started.append(process)
        return process

    yield start, gate, answers
    for process in started:
        process.kill()
        process.join()


def test_two_ranks_at_once_fetch_a_file_once_and_see_it_whole(storage: Any, tmp_path: Path) -> None:
    start, (half, rest), answers = storage
    for _ in range(2):
        start(tmp_path / "node")
    assert half.wait(SECONDS_MAX)
    rest.set()
    told = [answers.get(timeout=SECONDS_MAX) for _ in range(2)]
    assert [content for _, content, _ in told] == [CONTENT] * 2
    assert len({process for process, _, _ in told}) == 2
    assert len({inode for _, _, inode in told}) == 1


def test_a_rank_killed_while_it_fetches_leaves_nothing_that_is_taken_as_whole(
    storage: Any, tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, (half, _), _ = storage
    process = start(tmp_path / "node")
    assert half.wait(SECONDS_MAX)
    process.kill()
    process.join()
    (part,) = node.glob("*.part")
    assert _copies(node) == []
    _put("memory://elsewhere", b"one")
    _read("memory://elsewhere")  # another job tidies up
    assert not part.exists()
    unfinished(node / "dead.file").write_bytes(b"junk")
    fsspec.register_implementation("slow", Slow, clobber=True)
    assert _read(URL) == CONTENT
    assert list(node.glob("*.part")) == []
