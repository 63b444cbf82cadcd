"""What ranks do in step around a checkpoint: a failure of one of them is a failure of all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

from workers.contract.manifest import CheckpointDamaged
from workers.contract.outcome import StorageFailure

T = TypeVar("T")


@contextmanager
def failing_together(world_size: int, group: dist.ProcessGroup | None = None) -> Iterator[None]:
    """Run a block on every rank; if it fails on one, raise that failure on all of them.

    A rank that raised at once would leave the others waiting for it in their next collective.
    Without a group it is agreed over the default one.

    Raises:
        StorageFailure, CheckpointDamaged: the first rank's, with its number in the text.
    """
    mine: StorageFailure | CheckpointDamaged | None = None
    try:
        yield
    except (StorageFailure, CheckpointDamaged) as error:
        mine = error
    for rank, failure in enumerate(gathered(mine, world_size, group)):
        if failure is not None:
            raise type(failure)(f"rank {rank}: {failure}") from mine


def gathered(mine: T, world_size: int, group: dist.ProcessGroup | None = None) -> list[T]:
    """Every rank's value, by rank, on every rank."""
    if world_size == 1:
        return [mine]
    everyone: list[T] = [mine] * world_size
    dist.all_gather_object(everyone, mine, group=group)
    return everyone
