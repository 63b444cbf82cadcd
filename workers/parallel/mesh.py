"""Where this process sits in its gang, and how it joins and leaves the process group."""

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Seat:
    """One rank's place."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Rank 0 tells facts and decides what one must decide."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """One worker needs no collectives."""
        return self.world_size == 1


def join(rank: int, world_size: int, init_method: str) -> Seat:
    """Join the process group; returns when every rank is there.

    Collectives on GPU tensors run over NCCL, on CPU tensors over gloo: what ranks agree on beside
    the training stays on the CPU, so that it never waits for the GPU.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")  # a rank sees its own only
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method=init_method,
        rank=rank,
        world_size=world_size,
    )
    return Seat(rank=rank, world_size=world_size, device=device)


def leave() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()
