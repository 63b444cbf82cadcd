"""Runs a function on two gloo ranks, in processes that live as long as the test module."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

R = TypeVar("R")

WORLD_SIZE = 2
HANG_SECONDS = 60  # a rank that waits longer for the other one fails the test instead of hanging it


class TwoRanks:
    """Two processes; the same ones for every call, because importing torch takes seconds."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def run(self, meeting: Path, act: Callable[..., R], *args: object) -> list[R]:
        """Return `act(rank, ...)` of each rank; `meeting` is a new file in an existing folder."""
        futures = [
            self._pool.submit(_in_group, rank, meeting, act, *args) for rank in range(WORLD_SIZE)
        ]
        return [future.result(timeout=2 * HANG_SECONDS) for future in futures]


@contextmanager
def two_ranks() -> Iterator[TwoRanks]:
    with ProcessPoolExecutor(WORLD_SIZE, mp_context=get_context("spawn")) as pool:
        yield TwoRanks(pool)


def _in_group(rank: int, meeting: Path, act: Callable[..., R], *args: object) -> R:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=WORLD_SIZE,
        timeout=timedelta(seconds=HANG_SECONDS),
    )
    try:
        return act(rank, *args)
    finally:
        dist.destroy_process_group()
