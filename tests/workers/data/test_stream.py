"""Streams: each sample once in an epoch, in an order of no rank's making; damage is found."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import TypeAdapter

from tests.workers.training.attempts import launch, recipe, run_alone
from workers.contract.data_spec import DataSpec
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.data.dataset import Dataset, load_dataset
from workers.data.node_folder import VARIABLE
from workers.data.order import rank_part
from workers.data.processes import prefetched
from workers.data.shards import INDEX, Index, write_shards
from workers.data.sources import Places
from workers.data.stream import Stream

NUM_SAMPLES = 96
SHARD = 10 * 3 * 4  # bytes: ten samples
Array = npt.NDArray[Any]


@pytest.fixture(autouse=True)
def _node_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "node"))


def _samples(count: int = NUM_SAMPLES, at_once: int = 7) -> Iterator[tuple[Array, Array]]:
    """Samples whose values are their numbers."""
    for start in range(0, count, at_once):
        numbers = np.arange(start, min(count, start + at_once))
        yield np.repeat(numbers[:, None], 3, axis=1).astype(np.float32), numbers % 4


def _written(url: str, part: str = "train", count: int = NUM_SAMPLES) -> Index:
    return write_shards(_samples(count), f"{url}/{part}", SHARD)


def _load(url: str, **more: Any) -> Dataset:
    spec: Any = TypeAdapter(DataSpec).validate_python({"source": "stream", "path": url, **more})
    return load_dataset(spec, Places(url, (url,)))


def _train(url: str, **more: Any) -> Stream:
    train = _load(url, **more).train
    assert isinstance(train, Stream)
    return train


def test_what_was_written_is_read(tmp_path: Path) -> None:
    index = _written(str(tmp_path))
    assert [shard.num_samples for shard in index.shards] == [10] * 9 + [6]
    _written(str(tmp_path), "test", 20)
    data = _load(str(tmp_path))
    assert (data.shape, data.num_classes, len(data.train)) == ((3,), 4, NUM_SAMPLES)
    assert data.validation is None
    assert data.test is not None
    assert len(data.test) == 20
    rows = torch.tensor([95, 3, 50, 3])
    assert data.train.rows(rows, 0)[:, 0].tolist() == [95.0, 3.0, 50.0, 3.0]
    assert data.train.labels(rows).tolist() == [3, 3, 2, 3]
    assert torch.cat(list(data.train.passes()))[:, 1].tolist() == list(range(NUM_SAMPLES))


def test_a_job_that_watches_a_validation_part_which_is_not_there_is_refused(tmp_path: Path) -> None:
    _written(f"{tmp_path}/stream")
    watching = recipe(
        data={"source": "stream", "path": f"{tmp_path}/stream"},
        model={"kind": "mlp", "hidden": [4]},
        training={"epochs": 1, "batch_size": 8, "early_stop": {"patience": 1}},
    )
    with pytest.raises(ConfigFailure, match=r"training.early_stop: .* add a folder `validation`"):
        run_alone(launch(watching, tmp_path))
    _written(f"{tmp_path}/stream", "validation", 8)
    assert "validation_error" in run_alone(launch(watching, tmp_path)).outcome.metrics


def test_bytes_are_scaled_to_the_unit(tmp_path: Path) -> None:
    x = np.full((4, 1, 2, 2), 255, np.uint8)
    write_shards([(x, np.arange(4))], f"{tmp_path}/train")
    assert _train(str(tmp_path)).rows(torch.tensor([2]), 0).flatten().tolist() == [1.0] * 4
    assert _train(str(tmp_path), scale="none").rows(torch.tensor([2]), 0).max() == 255.0


def test_an_epoch_sees_each_sample_once_over_stops_and_changes_of_the_number_of_ranks(
    tmp_path: Path,
) -> None:
    _written(str(tmp_path))
    batch_size, seen = 12, []
    steps = NUM_SAMPLES // batch_size
    for step in range(steps):
        world_size = (2, 4, 1)[step * 3 // steps]  # begun anew with another number, twice
        for rank in range(world_size):
            part = _train(str(tmp_path))  # a process of its own knows nothing of the others
            batch = part.order(0, 0, 1)[step * batch_size : (step + 1) * batch_size]
            mine = batch[rank_part(batch_size, rank, world_size)]
            seen += part.rows(mine, 1)[:, 0].tolist()
    assert sorted(seen) == list(range(NUM_SAMPLES))
    whole = _train(str(tmp_path))
    assert seen == whole.rows(whole.order(0, 0, 1), 1)[:, 0].tolist()


def test_the_order_is_new_in_each_epoch_and_stays_within_a_window_of_shards(tmp_path: Path) -> None:
    _written(str(tmp_path))
    part = _train(str(tmp_path), shuffle_shards=2)
    orders = [part.order(0, 0, epoch).tolist() for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    assert part.order(1, 0, 0).tolist() != orders[0]
    assert part.order(0, 1, 0).tolist() != orders[0]
    for order in orders:
        changes = [len({number // 10 for number in order[k : k + 6]}) for k in range(0, 96, 6)]
        assert max(changes) <= 4  # two windows of two shards, where they meet


def test_a_far_stream_is_read_ahead_and_kept_on_the_node(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    _written(url)
    part = _train(url)
    order = part.order(0, 0, 0)
    part.expect(iter(torch.split(order, 12)), 0)
    values = [part.rows(batch, 0)[:, 0] for batch in torch.split(order, 12)]
    assert torch.cat(values).tolist() == order.tolist()
    assert part.labels(order).tolist() == [number % 4 for number in order.tolist()]
    part.close()
    folder = tmp_path / "node" / "files"
    inodes = {file: file.stat().st_ino for file in folder.glob("*.file")}
    assert len(inodes) == 12  # ten shards, the labels, the index
    assert _train(url).rows(torch.tensor([7]), 0)[0, 0] == 7.0
    assert {file: file.stat().st_ino for file in folder.glob("*.file")} == inodes  # none anew


def test_processes_read_the_same_ahead(tmp_path: Path) -> None:
    _written(str(tmp_path))
    part = _train(str(tmp_path))
    order = part.order(0, 0, 0)
    ahead = prefetched(part, 2)
    batches = torch.split(order, 24)
    ahead.expect(iter(batches), 0)
    read = torch.cat([ahead.rows(batch, 0) for batch in batches])
    ahead.close()
    assert torch.equal(read, part.rows(order, 0))


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    _written(str(tmp_path))
    file = tmp_path / "train" / "00003.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    part = _train(str(tmp_path))
    assert part.rows(torch.tensor([5]), 0)[0, 0] == 5.0
    with pytest.raises(StorageFailure, match=r"00003\.npy is damaged"):
        part.rows(torch.tensor([35]), 0)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    _written(str(tmp_path))
    (tmp_path / "train" / "00002.npy").unlink()
    with pytest.raises(ConfigFailure, match=r"there is no file .*00002\.npy"):
        _train(str(tmp_path)).rows(torch.tensor([25]), 0)


def test_a_folder_without_a_stream_and_a_strange_index_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigFailure, match=r"no train/index\.json.*strata data shard"):
        _load(str(tmp_path))
    _written(str(tmp_path))
    index = tmp_path / "train" / INDEX
    text = index.read_text()
    index.write_text(text.replace('"version": 1', '"version": 9'))
    with pytest.raises(ConfigFailure, match="version 9"):
        _load(str(tmp_path))
    index.write_text("[]")
    with pytest.raises(ConfigFailure, match="no index of a stream"):
        _load(str(tmp_path))


def test_a_storage_that_fails_is_no_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{tmp_path.name}"
    _written(url)
    part = _train(url)

    def broken(self: Any, path: str, **_: Any) -> Any:
        raise OSError("the network is down")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", broken)
    with pytest.raises(StorageFailure, match="the network is down"):
        part.rows(torch.tensor([0]), 0)


READS_ALL = """
import resource, sys, torch
from workers.contract.data_spec import StreamData
from workers.data.sources import Places
from workers.data.stream import open_stream

folder = sys.argv[1]
part, _, _ = open_stream(StreamData(source="stream", path=folder), Places(folder))
part.rows(torch.tensor([0]), 0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = 0.0
for batch in torch.split(part.order(0, 0, 0), 256):
    total += float(part.rows(batch, 0).sum())
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) / 1024, total)
"""


def test_memory_stays_flat_however_large_the_stream_is(tmp_path: Path) -> None:
    """An epoch over 192 MB takes less than a third of that."""
    rows = 1024
    blocks = ((np.full((rows, 1024), 1, np.uint8), np.zeros(rows, np.int64)) for _ in range(192))
    write_shards(blocks, f"{tmp_path}/train", shard_bytes=4 * 2**20)
    told = subprocess.run(
        [sys.executable, "-c", READS_ALL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    grown_mib, total = map(float, told.stdout.split())
    assert total == pytest.approx(192 * rows * 1024 / 255, rel=1e-3)
    assert grown_mib < 64
