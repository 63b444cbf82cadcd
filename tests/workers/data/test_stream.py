"""Streams: each sample once in an epoch, in an order of no rank's making; damage is found."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.workers.data.looking import features, loaded
from tests.workers.training.attempts import launch, recipe, run_alone
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.data import open_shards
from workers.data.dataset import Dataset
from workers.data.node_cache import with_copy
from workers.data.node_folder import VARIABLE
from workers.data.order import rank_part
from workers.data.processes import prefetched
from workers.data.shards import INDEX, Index, sha256_of, write_shards
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
    return loaded(url, source="stream", path=url, **more)


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


def test_features_are_standardized_by_the_training_part(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(50.0, 3.0, (40, 2))
    x[:, 1] = 0.1  # constant
    write_shards([(x, np.arange(40) % 2)], f"{tmp_path}/train", shard_bytes=100)
    write_shards([(x + 1000.0, np.arange(40) % 2)], f"{tmp_path}/test")
    data = _load(str(tmp_path), scale="standardize")
    expected = torch.from_numpy((x - x.mean(0)) / [x[:, 0].std(), 1.0]).float()
    torch.testing.assert_close(features(data.train), expected, atol=1e-4, rtol=1e-4)
    assert data.test is not None
    assert float(features(data.test).min()) > 100
    assert data.train.digest() != _train(str(tmp_path)).digest()


def test_a_class_of_the_test_part_alone_has_its_place_in_the_net(tmp_path: Path) -> None:
    for part, num_classes in (("train", 2), ("test", 5)):
        write_shards([(np.ones((10, 3)), np.arange(10) % num_classes)], f"{tmp_path}/{part}")
    assert _load(str(tmp_path)).num_classes == 5


BAD_SAMPLES: dict[str, tuple[list[tuple[Array, Array]], str]] = {
    "none": ([], "there are no samples"),
    "another shape": ([(np.ones((2, 3)), np.zeros(2, int)), (np.ones((2, 4)), np.zeros(2, int))],
        r"from number 2 on are float64 \(4,\), but those before float64 \(3,\)"),
    "text": ([(np.array([["a"]]), np.zeros(1, int))], "must be numbers"),
    "NaN": ([(np.array([[1.0], [np.nan]]), np.zeros(2, int))], "sample 1, counted from 0, holds"),
    "fewer labels": ([(np.ones((2, 3)), np.zeros(1, int))], r"shape \(2,\), not int64 \(1,\)"),
    "labels below zero": ([(np.ones((2, 3)), np.array([0, -1]))], "go from -1 to 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_what_is_no_sample_is_not_written(case: str, tmp_path: Path) -> None:
    samples, sentence = BAD_SAMPLES[case]
    with pytest.raises(ConfigFailure, match=sentence):
        write_shards(samples, f"{tmp_path}/train", shard_bytes=1)
    assert not (tmp_path / "train" / INDEX).exists()


def test_what_was_interrupted_is_no_stream_and_can_be_written_again(tmp_path: Path) -> None:
    def cut() -> Iterator[tuple[Array, Array]]:
        yield from list(_samples())[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(cut(), f"{tmp_path}/train", SHARD)
    assert (tmp_path / "train" / "00002.npy").exists()
    with pytest.raises(ConfigFailure, match=r"no train/index\.json"):
        _load(str(tmp_path))
    _written(str(tmp_path))
    assert features(_train(str(tmp_path)))[:, 0].tolist() == list(range(NUM_SAMPLES))


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


def test_a_far_stream_is_read_ahead_to_the_end_of_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where a shard is asked for before the thread comes to it, or is open since before."""
    url = f"memory://{tmp_path.name}"
    _written(url)
    part = _train(url, shuffle_shards=2)
    ahead, changed = set[str](), threading.Condition()

    def noted(url: str, use: Any, *, anew: bool = False) -> Any:
        found = with_copy(url, use, anew=anew)
        if threading.current_thread().name == "read-ahead":
            with changed:
                ahead.add(url)
                changed.notify_all()
        return found

    monkeypatch.setattr(open_shards, "with_copy", noted)
    for epoch in range(4):
        order = part.order(0, 0, epoch)
        shards = list(dict.fromkeys((order // 10).tolist()))
        ahead.clear()
        part.expect(iter(torch.split(order, 1)), epoch)
        for shard, coming in pairwise(shards):
            part.rows(torch.tensor([10 * shard]), epoch)
            with changed:
                name = f"{url}/train/{coming:05d}.npy"
                assert changed.wait_for(lambda name=name: name in ahead, timeout=60)  # type: ignore[misc]  # mypy can't infer a lambda's default
    part.close()


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


def test_a_shard_is_hashed_once_however_often_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _written(str(tmp_path))
    hashed: list[str] = []

    def noted(path: Path) -> str:
        hashed.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(open_shards, "sha256_of", noted)
    part = _train(str(tmp_path), shuffle_shards=1)  # so that two are open at the most
    for _ in range(3):
        assert features(part)[:, 0].tolist() == list(range(NUM_SAMPLES))
    assert sorted(hashed) == [f"{k:05d}.npy" for k in range(10)]


def test_a_damaged_copy_of_the_node_is_fetched_anew(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    _written(url)
    train = _train(url)
    assert features(train)[:, 0].tolist() == list(range(NUM_SAMPLES))
    train.close()
    for copy in (tmp_path / "node" / "files").glob("*.file"):
        content = bytearray(copy.read_bytes())
        if content[:1] == b"\x93":  # a .npy file; the index is read from what was fetched
            content[-1] ^= 1
            copy.write_bytes(content)
    assert features(_train(url))[:, 0].tolist() == list(range(NUM_SAMPLES))


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
    for old, new, sentence in (
        ('"version": 1', '"version": 9', "version 9"),
        ('"00003.npy"', '"../00003.npy"', r"shards\.3\.name"),
        ('"float32"', '"object"', "dtype"),
        ('"num_samples": 10', '"num_samples": 0', r"shards\.0\.num_samples"),
        (text, "[]", "no index of a stream"),
        (text, text[:100], "no index of a stream"),
    ):
        index.write_text(text.replace(old, new, 1))
        assert index.read_text() != text
        with pytest.raises(ConfigFailure, match=sentence) as caught:
            _load(str(tmp_path))
        assert "\n" not in str(caught.value)
    index.write_text(text.replace('"float32"', '"float64"'))
    with pytest.raises(
        ConfigFailure, match=r"0000.\.npy is float32 .*, but the index says float64"
    ):
        _train(str(tmp_path)).rows(torch.tensor([0]), 0)


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


TRAINS = """
import json, resource, sys
from pathlib import Path
import numpy as np
from tests.workers.data.looking import features, loaded
from tests.workers.training.attempts import launch, recipe, run_alone

folder, allowed_bytes = Path(sys.argv[1]), int(sys.argv[2])

def trained(name):
    spec = recipe(
        data={"source": "stream", "path": f"{folder}/{name}"},
        model={"kind": "mlp", "hidden": [16]},
        training={"epochs": 1, "batch_size": 256},
    )
    return run_alone(launch(spec, folder))

trained("small")  # all is imported, and has the memory that it needs for anything
status = Path("/proc/self/status").read_text()
used = 1024 * next(int(line.split()[1]) for line in status.splitlines() if "VmData" in line)
resource.setrlimit(resource.RLIMIT_DATA, (used + allowed_bytes, resource.RLIM_INFINITY))
try:
    np.ones(2 * allowed_bytes, np.uint8)
    is_limited = False
except MemoryError:
    is_limited = True
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
attempt = trained("large")
grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(json.dumps([is_limited, attempt.outcome.result, attempt.rank_steps, grown]))
"""


def test_training_on_three_times_the_memory_that_is_allowed_keeps_it_flat(tmp_path: Path) -> None:
    allowed_bytes, rows = 64 * 2**20, 1024
    for name, num in (("small", 4), ("large", 3 * allowed_bytes // (rows * 1024))):
        block = (np.full((rows, 1024), 1, np.uint8), np.arange(rows) % 2)
        write_shards((block for _ in range(num)), f"{tmp_path}/{name}/train", 4 * 2**20)
    told = subprocess.run(
        [sys.executable, "-c", TRAINS, str(tmp_path), str(allowed_bytes)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    is_limited, result, steps, grown_bytes = json.loads(told.stdout.splitlines()[-1])
    assert is_limited
    assert (result, steps) == ("succeeded", [3 * allowed_bytes // 1024 // 256])
    assert grown_bytes < allowed_bytes
