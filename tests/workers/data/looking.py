"""All samples of a part at once, and all labels: what tests compare."""

import torch
from torch import Tensor

from workers.data.part import Part


def features(part: Part) -> Tensor:
    """All samples in order, (N, ...)."""
    return torch.cat(list(part.passes()))


def labels(part: Part) -> Tensor:
    """All labels in order, (N,)."""
    return part.labels(torch.arange(len(part)))
