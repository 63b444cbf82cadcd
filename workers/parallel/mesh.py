"""Where this process sits in its gang, and how it joins and leaves the process group."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.utils.deterministic

from workers.contract.outcome import ConfigFailure


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


def join(rank: int, world_size: int, init_method: str, gpus: int = 0) -> Seat:
    """Join the process group; returns when every rank is there.

    Collectives on GPU tensors run over NCCL, on CPU tensors over gloo: what ranks agree on beside
    the training stays on the CPU, so that it never waits for the GPU.

    Args:
        rank: of this process.
        world_size: how many ranks there are.
        init_method: where they meet, as torch.distributed knows it.
        gpus: how many this rank was given; without one it trains on the CPU, whatever it sees.

    Raises:
        ConfigFailure: it was given several GPUs, or one that torch can't use.
    """
    if gpus > 1:
        raise ConfigFailure(
            f"resources.gpus_per_worker: a worker trains on one GPU, not on {gpus}; ask for more "
            "workers with one each"
        )
    on_gpu = gpus == 1
    if on_gpu and not torch.cuda.is_available():
        raise ConfigFailure(
            "resources.gpus_per_worker: the worker was given a GPU, but its torch "
            f"({torch.__version__}) sees none; install a build of torch that fits the GPU's driver"
        )
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")  # a rank sees its own only
    if on_gpu:
        torch.cuda.set_device(device)
        _compute_alike()
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method=init_method,
        rank=rank,
        world_size=world_size,
    )
    return Seat(rank=rank, world_size=world_size, device=device)


def _compute_alike() -> None:
    """Let a GPU add numbers in the same order each time: a resumed run must end with the same bits.

    Where torch has no such kernel it warns, and takes the other.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A debugging aid that takes time; torch makes it a property of its module.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def leave() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()
