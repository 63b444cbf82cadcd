"""What ranks do together beside averaging gradients: sum figures, share what rank 0 found out."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from workers.parallel.mesh import Seat

T = TypeVar("T")


def summed(tensor: Tensor, seat: Seat) -> Tensor:
    """Return the sum over ranks; the argument is left as it is."""
    total = tensor.clone()
    if not seat.is_alone:
        dist.all_reduce(total)
    return total


def from_first(ask: Callable[[], T], seat: Seat) -> T:
    """Ask on rank 0 only and return its answer, or raise its exception, on every rank."""
    if seat.is_alone:
        return ask()
    told: list[Any] = [None, None]
    if seat.is_first:
        try:
            told[0] = ask()
        except Exception as error:  # noqa: BLE001  # raised below, on every rank alike
            told[1] = error
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    answer: T = told[0]
    return answer


def settle_buffers(buffers: Iterable[Tensor], seat: Seat) -> None:
    """Give every rank the buffers of rank 0.

    The running statistics of batch normalization come of each rank's own samples. DDP hands out
    those of rank 0 before each forward pass; what evaluates or saves in between calls this.
    """
    if not seat.is_alone:
        for buffer in buffers:
            dist.broadcast(buffer, src=0)
