"""Checkpoints on a server that speaks S3: saved, verified, resumed from, pruned."""

import time
from pathlib import Path

import fsspec
import pytest
import torch

from tests.s3_server import forget_connections
from tests.workers.checkpoint.saving import (
    JOB,
    file_names,
    overwrite,
    point,
    read,
    save_one,
    saved,
    some_tensors,
)
from tests.workers.training.attempts import launch, recipe, run_alone
from workers.agent.gangs import prune
from workers.checkpoint.background import BackgroundSaves
from workers.checkpoint.reader import load, newest_whole
from workers.checkpoint.writer import CheckpointWriter
from workers.contract.inventory import CheckpointPath
from workers.contract.outcome import StorageFailure
from workers.contract.wire import JobId


def test_a_checkpoint_goes_there_and_comes_back(bucket: str) -> None:
    ref = saved(f"{bucket}/strata", tensors=some_tensors(3.0))
    assert newest_whole(f"{bucket}/strata", [ref]) == (ref, ())
    found = some_tensors(0.0)
    loaded = load(f"{bucket}/strata", ref, found, rank=0)
    torch.testing.assert_close(found, some_tensors(3.0), rtol=0, atol=0)
    assert torch.equal(loaded.rank_tensors["rng"], torch.arange(16, dtype=torch.uint8))


def test_a_tensor_of_many_parts_goes_there_in_the_background(bucket: str) -> None:
    large = torch.rand(20_000_000)  # 80 MB: s3fs sends parts of 50 MiB
    saves = BackgroundSaves(CheckpointWriter(bucket, JOB, 1, 0, 1))
    saves.begin(point(), {"w": large}, time.perf_counter())
    written = saves.landed().written
    saves.close()
    assert written is not None
    found = {"w": torch.zeros_like(large)}
    load(bucket, written.ref, found, rank=0)
    assert torch.equal(found["w"], large)


def test_a_flipped_byte_is_found_and_the_one_before_is_taken(bucket: str) -> None:
    older, newer = saved(bucket, step=1), saved(bucket, step=2)
    content = read(bucket, newer, "__0_0.distcp")
    overwrite(bucket, newer, "__0_0.distcp", content[:-1] + bytes([content[-1] ^ 1]))
    _forget_listings(bucket)
    found, refused = newest_whole(bucket, [newer, older])
    assert found == older
    assert newer.path in refused[0]


def test_a_folder_is_never_used_twice(bucket: str) -> None:
    ref = saved(bucket, tensors=some_tensors(1.0))
    with pytest.raises(StorageFailure):
        save_one(bucket, tensors=some_tensors(2.0))
    assert newest_whole(bucket, [ref]) == (ref, ())


def test_a_bucket_that_is_not_there_is_a_storage_failure_and_is_not_made(bucket: str) -> None:
    with pytest.raises(StorageFailure):
        save_one(f"{bucket}-not-there")
    assert not fsspec.filesystem("s3").exists(f"{bucket}-not-there")


def test_a_job_that_was_stopped_goes_on_from_there(bucket: str, tmp_path: Path) -> None:
    model = {"kind": "mlp", "hidden": [8]}
    written = recipe(model=model, checkpoint={"every_steps": 7}, training={"epochs": 2})
    spec = launch(written, tmp_path).model_copy(update={"storage_url": bucket})
    whole = run_alone(spec.model_copy(update={"job_id": JobId("whole")}))
    stopped = run_alone(spec, stop_at=17)
    refs = tuple(stopped.recorder.refs)
    assert [ref.step for ref in refs] == [17, 14, 7]
    again = run_alone(spec.model_copy(update={"attempt": 2, "resume": refs}))
    assert again.outcome.metrics == whole.outcome.metrics
    assert again.recorder.steps[0] == 18


def test_a_server_that_is_away_is_no_damage(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = saved(bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget_connections()
    with pytest.raises(StorageFailure):
        newest_whole(bucket, [ref])


def test_an_agent_prunes_it(bucket: str) -> None:
    older, newer = saved(bucket, step=1), saved(bucket, step=2)
    assert prune(bucket, CheckpointPath(job_id=JOB, path=older.path))
    _forget_listings(bucket)
    files, root = fsspec.url_to_fs(f"{bucket}/{older.path}")
    assert not files.exists(root)
    assert "manifest.json" in file_names(bucket, newer)


def _forget_listings(bucket: str) -> None:
    fsspec.url_to_fs(bucket)[0].invalidate_cache()
