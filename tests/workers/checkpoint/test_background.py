"""Saves in the background: what they hold although training goes on, and when they are told."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from tests.workers.checkpoint.failing_files import FailingFiles
from tests.workers.checkpoint.ranks import WORLD_SIZE, TwoRanks
from tests.workers.checkpoint.saving import JOB, point, saved, some_tensors
from workers.checkpoint.background import BackgroundSaves, Landed
from workers.checkpoint.reader import load
from workers.checkpoint.writer import CheckpointWriter
from workers.contract.outcome import StorageFailure
from workers.contract.reports import CheckpointRef, CheckpointWritten

NUM_WEIGHTS = 1000


@pytest.fixture
def saves(tmp_path: Path) -> Iterator[BackgroundSaves]:
    made = BackgroundSaves(CheckpointWriter(str(tmp_path), JOB, 1, 0, 1))
    yield made
    made.landed()
    made.close()


def _begin(saves: BackgroundSaves, tensors: dict[str, Any], step: int = 7) -> None:
    saves.begin(point(step), tensors, time.perf_counter())


def _loaded(storage: Path, landed: Landed) -> torch.Tensor:
    assert landed.written is not None
    tensors = {"w": torch.zeros(NUM_WEIGHTS)}
    load(str(storage), landed.written.ref, tensors, rank=0)
    return tensors["w"]


def test_it_holds_what_stood_when_it_was_begun(saves: BackgroundSaves, tmp_path: Path) -> None:
    w = torch.ones(NUM_WEIGHTS)
    for step in (1, 2):  # the second one uses the first one's memory
        _begin(saves, {"w": w}, step)
        saves.wait_staged()
        w += 1
        assert bool((_loaded(tmp_path, saves.landed()) == step).all())


class _Gate:
    """Holds the stager back between two tensors, until the test lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from torch.distributed.checkpoint._state_dict_stager import StateDictStager

        offload: Any = StateDictStager._offload_tensor
        self.is_at_second = threading.Event()
        self.may_go_on = threading.Event()
        num_copied = 0

        def held(stager: Any, tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
            nonlocal num_copied
            num_copied += 1
            if num_copied == 2:
                self.is_at_second.set()
                assert self.may_go_on.wait(timeout=30)
            return offload(stager, tensor, *args, **options)

        monkeypatch.setattr(StateDictStager, "_offload_tensor", held)


@pytest.mark.parametrize("waits", [True, False])
def test_only_the_wait_before_the_update_keeps_a_checkpoint_from_being_torn(
    waits: bool, saves: BackgroundSaves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(monkeypatch)
    tensors = {"first": torch.ones(NUM_WEIGHTS), "second": torch.ones(NUM_WEIGHTS)}
    _begin(saves, tensors)
    assert gate.is_at_second.wait(timeout=30)
    if waits:
        opener = threading.Timer(0.05, gate.may_go_on.set)
        opener.start()
        saves.wait_staged()
    for tensor in tensors.values():  # the optimizer's step
        tensor.fill_(2.0)
    gate.may_go_on.set()
    written = saves.landed().written
    assert written is not None
    found = {name: torch.zeros(NUM_WEIGHTS) for name in tensors}
    load(str(tmp_path), written.ref, found, rank=0)
    assert float(found["first"].mean()) == 1.0
    assert float(found["second"].mean()) == (1.0 if waits else 2.0)


def test_it_is_told_once_and_only_when_its_manifest_stands(tmp_path: Path) -> None:
    may_write = threading.Event()

    class Slow(CheckpointWriter):
        def save(self, *args: Any, **options: Any) -> CheckpointWritten | None:
            assert may_write.wait(timeout=30)
            return super().save(*args, **options)

    saves = BackgroundSaves(Slow(str(tmp_path), JOB, 1, 0, 1))
    begun_at = time.perf_counter()
    saves.begin(point(), {"w": torch.ones(3)}, begun_at)
    saves.wait_staged()
    assert saves.poll() is None
    may_write.set()
    deadline = time.monotonic() + 30
    while (written := saves.poll()) is None:
        assert time.monotonic() < deadline
    assert (tmp_path / written.ref.path / "manifest.json").exists()
    assert written.stall_seconds < written.save_seconds <= time.perf_counter() - begun_at
    assert (saves.poll(), saves.landed()) == (None, Landed())
    saves.close()


def test_a_second_save_can_not_begin_while_one_is_under_way(saves: BackgroundSaves) -> None:
    _begin(saves, {"w": torch.ones(3)})
    with pytest.raises(AssertionError):
        _begin(saves, {"w": torch.ones(3)}, step=8)


def test_storage_that_hangs_does_not_keep_a_failed_training(tmp_path: Path) -> None:
    may_end = threading.Event()

    class Hanging(CheckpointWriter):
        def save(self, *_args: Any, **_options: Any) -> CheckpointWritten | None:
            assert may_end.wait(timeout=30)
            return None

    saves = BackgroundSaves(Hanging(str(tmp_path), JOB, 1, 0, 1))
    _begin(saves, {"w": torch.ones(3)})
    with pytest.raises(TimeoutError):
        saves.landed(seconds=0.01)
    may_end.set()
    assert saves.landed() == Landed()
    saves.close()


def test_a_failure_comes_when_it_is_asked_for_and_is_counted(tmp_path: Path) -> None:
    saves = BackgroundSaves(CheckpointWriter(f"failing://{tmp_path}", JOB, 1, 0, 1))
    for step in (1, 2):
        FailingFiles.arm(write=1)
        _begin(saves, {"w": torch.ones(3)}, step)
        failure = saves.landed().failure
        assert isinstance(failure, StorageFailure)
        assert "No space left" in str(failure)
        assert (saves.poll(), saves.num_failed) == (None, step)
    FailingFiles.arm()
    _begin(saves, {"w": torch.ones(3)}, 3)
    assert saves.landed().written is not None
    assert saves.num_failed == 0
    saves.close()


def _save_while_training(
    rank: int, url: str, failing_rank: int
) -> tuple[CheckpointRef | None, str, CheckpointRef | None]:
    """One save that fails on a rank and one that does not, with collectives beside them."""
    FailingFiles.arm(write=1 if rank == failing_rank else None)
    saves = BackgroundSaves(CheckpointWriter(url, JOB, 1, rank, WORLD_SIZE))
    ends = []
    for step in (1, 2):
        saves.begin(point(step, rank), some_tensors(float(step)), time.perf_counter())
        saves.wait_staged()
        for _ in range(50):
            torch.distributed.all_reduce(torch.ones(100))
        ends.append(saves.landed())
    saves.close()
    first, second = ends
    return (
        first.written.ref if first.written else None,
        str(first.failure or ""),
        second.written.ref if second.written else None,
    )


def test_ranks_save_beside_their_collectives_and_fail_together(
    ranks: TwoRanks, tmp_path: Path
) -> None:
    (tmp_path / "storage").mkdir()
    url = f"failing://{tmp_path}/storage"
    FailingFiles.arm()

    upper, lower = ranks.run(tmp_path / "meeting", _save_while_training, url, 1)

    assert upper[0] is None
    assert "rank 1" in upper[1]
    assert upper[1] == lower[1]
    assert upper[2] is not None
    assert lower[2] is None
    tensors = some_tensors(0.0)
    load(url, upper[2], tensors, rank=0)
    torch.testing.assert_close(tensors, some_tensors(2.0), rtol=0, atol=0)


def _close(rank: int, url: str) -> tuple[set[str], int]:
    """Threads that a save leaves behind, by name, and how many process groups there are."""
    before = set(threading.enumerate())
    saves = BackgroundSaves(CheckpointWriter(url, JOB, 1, rank, WORLD_SIZE))
    saves.begin(point(7, rank), some_tensors(), time.perf_counter())
    assert len(set(threading.enumerate()) - before) > 0
    assert len(distributed_c10d._world.pg_map) == 2
    saves.landed()
    saves.close()
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(timeout=30)  # what has landed may be on its last lines
    return {one.name for one in left if one.is_alive()}, len(distributed_c10d._world.pg_map)


def test_what_was_closed_leaves_no_thread_and_no_group(ranks: TwoRanks, tmp_path: Path) -> None:
    assert ranks.run(tmp_path / "meeting", _close, str(tmp_path)) == [(set(), 1)] * WORLD_SIZE


class _Sudden(BaseException):
    """As torch's CheckpointException is: an ordinary `except` does not see it."""


def test_whatever_ends_a_save_is_raised_in_the_thread_of_the_training(tmp_path: Path) -> None:
    class Failing(CheckpointWriter):
        def save(self, *_args: Any, **_options: Any) -> CheckpointWritten | None:
            raise _Sudden

    saves = BackgroundSaves(Failing(str(tmp_path), JOB, 1, 0, 1))
    _begin(saves, {"w": torch.ones(3)})
    with pytest.raises(_Sudden):
        saves.landed()
    assert saves.poll() is None


def _save_shards(rank: int, url: str) -> CheckpointWritten | None:
    """Save a sharded tensor in the background, and change it once that is allowed."""
    mesh = init_device_mesh("cpu", (WORLD_SIZE,))
    weight = distribute_tensor(torch.arange(20.0).reshape(5, 4), mesh, [Shard(0)])
    saves = BackgroundSaves(CheckpointWriter(url, JOB, 1, rank, WORLD_SIZE))
    saves.begin(point(7, rank), {"w": weight}, time.perf_counter())
    saves.wait_staged()
    weight.mul_(0.0)
    written = saves.landed().written
    saves.close()
    return written


def test_shards_are_copied_too_and_one_rank_loads_them_whole(
    ranks: TwoRanks, tmp_path: Path
) -> None:
    written, _ = ranks.run(tmp_path / "meeting", _save_shards, str(tmp_path))
    assert written is not None
    found = {"w": torch.zeros(5, 4)}
    load(str(tmp_path), written.ref, found, rank=0)
    assert torch.equal(found["w"], torch.arange(20.0).reshape(5, 4))


def test_a_waited_for_save_and_a_background_one_are_the_same_on_storage(tmp_path: Path) -> None:
    ref = saved(str(tmp_path / "waited"))
    saves = BackgroundSaves(CheckpointWriter(str(tmp_path / "background"), JOB, 1, 0, 1))
    _begin(saves, some_tensors())
    written = saves.landed().written
    saves.close()
    assert written is not None
    assert written.ref.path == ref.path
    found = some_tensors(0.0)
    load(str(tmp_path / "background"), written.ref, found, rank=0)
    torch.testing.assert_close(found, some_tensors(), rtol=0, atol=0)
