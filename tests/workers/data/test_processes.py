"""Samples read ahead are those read in place; processes end with the one that they read for."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor

from tests.workers.data.reading import NUM, Failing, Telling, memory, orphans, read_and_wait
from tests.workers.training.attempts import launch, recipe, run_alone
from workers.contract.data_spec import DataSpec
from workers.contract.outcome import ConfigFailure, FailureKind
from workers.data.dataset import Dataset, load_dataset
from workers.data.processes import BATCHES_AHEAD, ReaderDied, prefetched
from workers.data.sources import Places

SECONDS_MAX = 60.0


def _batches(size: int = 10) -> list[Tensor]:
    return list(torch.split(torch.arange(NUM), size))


def _until_gone(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(timeout=SECONDS_MAX)


def _descendants() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _digits(workers: int) -> Dataset:
    spec: Any = TypeAdapter(DataSpec).validate_python(
        {
            "source": "digits",
            "image": True,
            "augment": {"crop_padding": 2, "noise": 0.1},
            "normalize": {"mean": [0.3], "std": [0.2]},
            "workers": workers,
        }
    )
    return load_dataset(spec, Places("/nowhere"), seed=1)


def test_samples_have_the_same_bits_for_any_number_of_processes() -> None:
    torch.set_flush_denormal(True)
    state = torch.get_rng_state()
    alone = _digits(0).train
    for workers in (1, 2):
        with closing(_digits(workers).flat()) as data:
            for epoch in range(2):
                batches = torch.split(data.train.order(0, 0, epoch)[:300], 60)
                data.train.expect(iter(batches), epoch)
                for rows_B in batches:
                    expected = alone.rows(rows_B, epoch).flatten(1)
                    assert torch.equal(data.train.rows(rows_B, epoch), expected)
                    assert torch.equal(data.train.labels(rows_B), alone.labels(rows_B))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_expected_is_read_elsewhere_and_all_else_in_place() -> None:
    with closing(prefetched(Telling(memory()), 2)) as part:
        batches = _batches()

        def readers(indices: list[int], epoch: int) -> list[int]:
            read = [part.rows(batches[k], epoch) for k in indices]
            assert all(bool((x_B[:, 1] == epoch).all()) for x_B in read)
            assert [x_B[:, 2].tolist() for x_B in read] == [batches[k].tolist() for k in indices]
            return [int(x_B[0, 0]) for x_B in read]

        me = os.getpid()
        assert readers([0], 0) == [me]
        part.expect(iter(batches), 0)
        first = readers([0, 1, 2], 0)
        assert me not in first
        assert len(set(first)) == 2
        assert readers([5], 0) == [me]  # not yet its turn
        assert readers([3], 1) == [me]  # another epoch
        assert set(readers([3], 0)) <= set(first)
        part.expect(iter(batches[2:]), 1)  # in the middle of what was read before
        assert set(readers([2, 3, 4, 5], 1)) == set(first)
        assert readers([5], 1) == [me]  # all of it was taken


def test_no_more_is_read_than_may_be_ahead() -> None:
    taken = []

    def announced() -> Iterator[Tensor]:
        for batch in _batches(1):
            taken.append(batch)
            yield batch

    with closing(prefetched(Telling(memory()), 2)) as part:
        part.expect(announced(), 0)
        for k in range(10):
            assert len(taken) == k + 2 * BATCHES_AHEAD
            part.rows(torch.tensor([k]), 0)


def test_a_failure_in_a_process_is_told_as_it_is_when_its_batch_is_asked_for() -> None:
    with closing(prefetched(Failing(memory()), 1)) as part:
        part.expect(iter(_batches()[:4:2]), 0)
        part.rows(_batches()[0], 0)
        with pytest.raises(ConfigFailure, match=r"^data\.path: picture 20 is damaged$"):
            part.rows(_batches()[2], 0)


def test_a_process_that_dies_is_a_failure_and_no_hang() -> None:
    with closing(prefetched(Failing(memory()), 2)) as part:
        batches = [_batches()[k] for k in (0, 3, 1)]
        part.expect(iter(batches), 0)
        part.rows(batches[0], 0)
        with pytest.raises(ReaderDied, match="that reads samples ahead is gone") as caught:
            part.rows(batches[1], 0)
        assert caught.value.kind is FailureKind.WORKER_DIED


def test_processes_end_when_the_part_is_closed_and_new_ones_start_when_it_is_used_again() -> None:
    part = prefetched(Telling(memory()), 1)
    pids = []
    for _ in range(2):
        part.expect(iter(_batches()), 0)
        pids.append(int(part.rows(_batches()[0], 0)[0, 0]))
        part.close()
        assert int(part.rows(_batches()[1], 0)[0, 0]) == os.getpid()
    assert len({*pids, os.getpid()}) == 3
    _until_gone(pids)


def test_processes_end_when_the_one_they_read_for_is_killed() -> None:
    before = orphans()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=read_and_wait, args=(there,))
    process.start()
    try:
        assert here.poll(SECONDS_MAX)
        pids = here.recv()
    finally:
        process.kill()
        process.join()
    assert len(pids) == 3
    _until_gone(pids)
    assert orphans() <= before


def test_a_training_that_fails_leaves_no_process_and_no_memory_behind(tmp_path: Path) -> None:
    for k in range(12):
        file = tmp_path / "pictures" / f"class-{k % 2}" / f"{k:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), k, np.uint8)).save(file)
    file.write_bytes(b"no picture")
    spec = recipe(
        data={
            "source": "image_folder",
            "path": "pictures",
            "size": 4,
            "test_fraction": 0.0,
            "workers": 2,
        },
        model={"kind": "mlp", "hidden": [4]},
        training={"epochs": 1, "batch_size": 2},
    )
    with closing(prefetched(Telling(memory()), 1)) as part:  # the server of processes stays
        part.expect(iter(_batches()), 0)
        processes, before = _descendants(), orphans()
        with pytest.raises(ConfigFailure, match=r"11\.png can't be decoded: .*; mend or remove it"):
            run_alone(launch(spec, tmp_path))
        _until_gone(_descendants() - processes)
        assert orphans() <= before
