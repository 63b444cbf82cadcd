"""The order in which samples are seen: the same global batches for any number of workers.

One permutation per (seed, stage, epoch); the batch of step k is its k-th piece, and each worker
takes its own part of that. Nothing is remembered, so any step can be resumed from its number.
"""

import torch
from torch import Tensor

from workers.data.seeds import derived_seed


def epoch_order(num_samples: int, seed: int, stage_index: int, epoch: int) -> Tensor:
    """Return a permutation of range(num_samples), int64, on the CPU."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", stage_index, epoch))
    return torch.randperm(num_samples, generator=generator)


def rank_part(length: int, rank: int, world_size: int) -> slice:
    """Return which of `length` things in a row are this rank's; parts differ by one at the most."""
    return slice(length * rank // world_size, length * (rank + 1) // world_size)
