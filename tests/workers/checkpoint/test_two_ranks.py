"""Two ranks save and load together: shares, shards, and failures that all of them see."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from tests.workers.checkpoint.failing_files import FailingFiles
from tests.workers.checkpoint.ranks import WORLD_SIZE, TwoRanks
from tests.workers.checkpoint.saving import file_names, overwrite, save_one, saved, some_tensors
from workers.checkpoint.reader import Loaded, load, newest_whole
from workers.contract.manifest import CheckpointDamaged
from workers.contract.outcome import StorageFailure
from workers.contract.reports import CheckpointRef, CheckpointWritten

WEIGHT = torch.arange(20, dtype=torch.float32).reshape(5, 4)  # 5 rows do not split evenly


def _save(rank: int, url: str) -> CheckpointWritten | None:
    return save_one(url, rank=rank, world_size=WORLD_SIZE)


def _load(rank: int, url: str, ref: CheckpointRef) -> tuple[dict[str, Any], Loaded]:
    tensors = some_tensors(0.0)
    return tensors, load(url, ref, tensors, rank)


def _two_rank_ref(ranks: TwoRanks, tmp_path: Path) -> CheckpointRef:
    written, nothing = ranks.run(tmp_path / "saving", _save, str(tmp_path))
    assert written is not None
    assert nothing is None
    return written.ref


def test_ranks_share_the_writing_and_each_gets_its_own_back(
    ranks: TwoRanks, tmp_path: Path
) -> None:
    ref = _two_rank_ref(ranks, tmp_path)

    assert file_names(str(tmp_path), ref) == [
        ".metadata",
        "__0_0.distcp",
        "__1_0.distcp",
        "manifest.json",
        "rank-0.pt",
        "rank-1.pt",
        "state.json",
    ]
    for rank, (tensors, loaded) in enumerate(
        ranks.run(tmp_path / "loading", _load, str(tmp_path), ref)
    ):
        torch.testing.assert_close(tensors, some_tensors(), rtol=0, atol=0)
        assert int(loaded.rank_tensors["rng"][0]) == rank


def test_two_ranks_load_what_one_saved(ranks: TwoRanks, tmp_path: Path) -> None:
    ref = saved(str(tmp_path))

    both = ranks.run(tmp_path / "loading", _load, str(tmp_path), ref)

    for tensors, _ in both:
        torch.testing.assert_close(tensors, some_tensors(), rtol=0, atol=0)
    assert both[0][1].rank_tensors.keys() == {"rng"}
    assert both[1][1].rank_tensors == {}


def test_one_rank_loads_what_two_saved(ranks: TwoRanks, tmp_path: Path) -> None:
    ref = _two_rank_ref(ranks, tmp_path)
    tensors = some_tensors(0.0)

    load(str(tmp_path), ref, tensors, rank=0)

    torch.testing.assert_close(tensors, some_tensors(), rtol=0, atol=0)


# --- shards ---------------------------------------------------------------------------------------


def _sharded(value: torch.Tensor) -> DTensor:
    return distribute_tensor(value, init_device_mesh("cpu", (WORLD_SIZE,)), [Shard(0)])


def _save_sharded(rank: int, url: str) -> CheckpointWritten | None:
    return save_one(url, rank=rank, world_size=WORLD_SIZE, tensors={"w": _sharded(WEIGHT)})


def _load_sharded(rank: int, url: str, ref: CheckpointRef) -> torch.Tensor:
    tensors = {"w": _sharded(torch.zeros_like(WEIGHT))}
    load(url, ref, tensors, rank)
    return tensors["w"].to_local()


def test_a_sharded_tensor_is_loaded_whole_by_one_rank(ranks: TwoRanks, tmp_path: Path) -> None:
    written, _ = ranks.run(tmp_path / "saving", _save_sharded, str(tmp_path))
    assert written is not None
    tensors = {"w": torch.zeros_like(WEIGHT)}

    load(str(tmp_path), written.ref, tensors, rank=0)

    assert torch.equal(tensors["w"], WEIGHT)


def test_a_plain_tensor_is_loaded_in_shards_by_two_ranks(ranks: TwoRanks, tmp_path: Path) -> None:
    ref = saved(str(tmp_path), tensors={"w": WEIGHT})

    upper, lower = ranks.run(tmp_path / "loading", _load_sharded, str(tmp_path), ref)

    assert torch.equal(upper, WEIGHT[:3])
    assert torch.equal(lower, WEIGHT[3:])


# --- failures -------------------------------------------------------------------------------------


def _save_on_a_failing_disk(
    rank: int, url: str, failing_rank: int, write: int
) -> tuple[str, int, bool]:
    """Fail once, then go on: (the failure's text, how often the disk failed, second one saved)."""
    FailingFiles.arm(write=write if rank == failing_rank else None)
    text = ""
    try:
        save_one(url, step=1, rank=rank, world_size=WORLD_SIZE)
    except StorageFailure as failure:
        text = str(failure)
    num_failures = FailingFiles.num_failures
    dist.barrier()  # the ranks are in step after a failure, so a later save can succeed
    FailingFiles.arm()
    written = save_one(url, step=2, rank=rank, world_size=WORLD_SIZE)
    return text, num_failures, written is not None


@pytest.mark.parametrize(
    ("failing_rank", "write"),
    [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 1), (1, 2)],
    ids=["data", "metadata", "rank 0's", "state", "manifest", "rank 1's data", "rank 1's"],
)
def test_a_full_disk_on_one_rank_fails_the_save_on_both(
    failing_rank: int, write: int, ranks: TwoRanks, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()

    both = ranks.run(
        tmp_path / "meeting", _save_on_a_failing_disk, f"failing://{storage}", failing_rank, write
    )

    for rank, (text, num_failures, _) in enumerate(both):
        assert "No space left on device" in text
        assert f"rank {failing_rank}" in text
        assert (num_failures > 0) == (rank == failing_rank)
    assert [saved_later for _, _, saved_later in both] == [True, False]
    manifests = [path.parent.name for path in storage.rglob("manifest.json")]
    assert manifests == ["finetune-000000002-a1"]


def _failures_where_one_has_no_library(rank: int, url: str, ref: CheckpointRef) -> list[str]:
    if rank == 1:
        url = "gopher://x"
    texts = []
    for act in (
        lambda: save_one(url, rank=rank, world_size=WORLD_SIZE),
        lambda: _load(rank, url, ref),
    ):
        with pytest.raises(StorageFailure) as caught:
            act()
        texts.append(str(caught.value))
    return texts


def test_storage_that_one_rank_can_not_use_is_a_failure_of_both(
    ranks: TwoRanks, tmp_path: Path
) -> None:
    ref = saved(str(tmp_path), step=1)

    both = ranks.run(tmp_path / "meeting", _failures_where_one_has_no_library, str(tmp_path), ref)

    for texts in both:
        assert all("rank 1: gopher://x can't be used as storage" in text for text in texts)


def _failure_of_saving_again(rank: int, url: str) -> str:
    with pytest.raises(StorageFailure) as caught:
        save_one(url, rank=rank, world_size=WORLD_SIZE)
    return str(caught.value)


def test_a_folder_that_stands_fails_the_save_on_both_and_stays(
    ranks: TwoRanks, tmp_path: Path
) -> None:
    ref = _two_rank_ref(ranks, tmp_path)

    texts = ranks.run(tmp_path / "again", _failure_of_saving_again, str(tmp_path))

    assert all("can't be created" in text for text in texts)
    assert newest_whole(str(tmp_path), [ref]) == (ref, ())


def _failure_of_loading(rank: int, url: str, ref: CheckpointRef) -> tuple[type, bool]:
    """The class of the failure, and whether the tensors are untouched."""
    tensors = some_tensors(0.0)
    with pytest.raises((CheckpointDamaged, StorageFailure)) as caught:
        load(url, ref, tensors, rank)
    return caught.type, bool((tensors["model"]["0.weight"] == 0).all())


@pytest.mark.parametrize("name", ["__1_0.distcp", "rank-1.pt", "state.json"])
def test_damage_is_seen_by_both_before_anything_is_loaded(
    name: str, ranks: TwoRanks, tmp_path: Path
) -> None:
    ref = _two_rank_ref(ranks, tmp_path)
    overwrite(str(tmp_path), ref, name, b"something else")

    both = ranks.run(tmp_path / "loading", _failure_of_loading, str(tmp_path), ref)

    assert both == [(CheckpointDamaged, True)] * WORLD_SIZE


def _failure_where_one_cannot_read(rank: int, url: str, ref: CheckpointRef) -> tuple[type, bool]:
    FailingFiles.arm(read=rank == 1)
    return _failure_of_loading(rank, url, ref)


def test_an_outage_on_one_rank_is_seen_by_both(ranks: TwoRanks, tmp_path: Path) -> None:
    ref = _two_rank_ref(ranks, tmp_path)

    both = ranks.run(
        tmp_path / "loading", _failure_where_one_cannot_read, f"failing://{tmp_path}", ref
    )

    assert both == [(StorageFailure, True)] * WORLD_SIZE
