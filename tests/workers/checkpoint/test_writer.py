"""One rank's saves: what stands on storage, in which order it got there, what fails."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from tests.workers.checkpoint.failing_files import FailingFiles
from tests.workers.checkpoint.saving import (
    JOB,
    STATE,
    file_names,
    read,
    save_one,
    saved,
    some_tensors,
)
from workers.checkpoint.reader import newest_whole
from workers.checkpoint.writer import CheckpointWriter, SavePoint
from workers.contract.manifest import Manifest
from workers.contract.outcome import StorageFailure

DATA_FILES = [".metadata", "__0_0.distcp", "rank-0.pt", "state.json"]


def test_the_fact_names_what_stands_on_storage(storage_url: str) -> None:
    written = save_one(storage_url)

    assert written is not None
    assert written.ref.path == f"jobs/{JOB}/checkpoints/finetune-000000007-a1"
    assert (written.ref.stage_index, written.ref.stage, written.ref.step) == (1, "finetune", 7)
    assert file_names(storage_url, written.ref) == sorted([*DATA_FILES, "manifest.json"])
    text = read(storage_url, written.ref, "manifest.json")
    assert hashlib.sha256(text).hexdigest() == written.ref.manifest_sha256
    sizes = {name: len(read(storage_url, written.ref, name)) for name in DATA_FILES}
    assert (written.files, written.bytes) == (len(DATA_FILES), sum(sizes.values()))
    assert 0.0 < written.save_seconds == written.stall_seconds


def test_the_manifest_lists_every_file_with_its_hash(storage_url: str) -> None:
    ref = saved(storage_url)

    manifest = Manifest.model_validate_json(read(storage_url, ref, "manifest.json"))

    assert [file.name for file in manifest.files] == DATA_FILES
    for file in manifest.files:
        content = read(storage_url, ref, file.name)
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (manifest.job_id, manifest.attempt, manifest.world_size) == (JOB, 1, 1)


def test_the_state_is_plain_json(storage_url: str) -> None:
    ref = saved(storage_url)

    assert json.loads(read(storage_url, ref, "state.json")) == STATE


def test_a_rank_without_tensors_of_its_own_writes_no_file_for_them(storage_url: str) -> None:
    ref = saved(storage_url, rank_tensors={})

    assert "rank-0.pt" not in file_names(storage_url, ref)


def test_a_folder_is_never_used_twice(storage_url: str) -> None:
    ref = saved(storage_url)
    before = {name: read(storage_url, ref, name) for name in file_names(storage_url, ref)}

    with pytest.raises(StorageFailure, match="can't be created"):
        save_one(storage_url, tensors=some_tensors(2.0))

    after = {name: read(storage_url, ref, name) for name in file_names(storage_url, ref)}
    assert after == before


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_a_full_disk_at_any_file_is_a_storage_failure_and_leaves_nothing(
    n: int, tmp_path: Path
) -> None:
    FailingFiles.arm(write=n)

    with pytest.raises(StorageFailure, match="No space left"):
        save_one(f"failing://{tmp_path}")

    assert FailingFiles.num_failures > 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_storage_that_fails_at_any_call_is_a_storage_failure_and_never_a_checkpoint(
    tmp_path: Path,
) -> None:
    before = saved(str(tmp_path), step=1)
    FailingFiles.arm()
    saved(f"failing://{tmp_path}", step=2)
    num_calls = FailingFiles.num_calls
    assert num_calls > 3 * len(DATA_FILES)
    for call in range(1, num_calls + 1):
        FailingFiles.arm(call=call)
        with pytest.raises(StorageFailure, match="503 Slow Down"):
            save_one(f"failing://{tmp_path}", step=2 + call)
        assert FailingFiles.num_failures == 1
    manifests = {path.parent.name for path in tmp_path.rglob("manifest.json")}
    assert manifests == {"finetune-000000001-a1", "finetune-000000002-a1"}
    assert newest_whole(str(tmp_path), [before]) == (before, ())


def test_storage_of_an_unknown_kind_is_a_storage_failure() -> None:
    with pytest.raises(StorageFailure, match="gopher://x can't be used as storage"):
        save_one("gopher://x")


def test_a_state_that_json_cannot_say_fails_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_one(str(tmp_path), state={"when": object()})

    assert list(tmp_path.iterdir()) == []


def test_files_are_durable_before_the_manifest_and_names_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def recorded(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    ref = saved(str(tmp_path))

    folder = tmp_path / ref.path
    data, manifest, names = synced[:4], synced[4], synced[5:]
    assert sorted(data) == [str(folder / name) for name in DATA_FILES]
    assert manifest == str(folder / "manifest.json")
    assert names[0] == str(folder)
    assert names[-1] == str(tmp_path)


def test_a_save_waits_for_no_sync_of_the_whole_machine(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[None] = []
    monkeypatch.setattr(os, "sync", lambda: syncs.append(None))

    saved(storage_url)

    assert syncs == []


def test_one_writer_saves_one_checkpoint_after_another(storage_url: str) -> None:
    writer = CheckpointWriter(storage_url, JOB, 2, 0, 1)
    refs = []
    for step, tensors in ((1, {"a": torch.zeros(2)}), (2, {"b": torch.ones(3), "c": {}})):
        written = writer.save(
            SavePoint(0, "pretrain-01", step, state={"step": step}, rank_tensors={}), tensors
        )
        assert written is not None
        refs.append(written.ref)

    states = [json.loads(read(storage_url, ref, "state.json")) for ref in refs]
    assert states == [{"step": 1}, {"step": 2}]
