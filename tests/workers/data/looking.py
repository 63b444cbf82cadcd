"""Data as recipes name it, all its samples at once, and all labels: what tests compare."""

from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from workers.contract.data_spec import DataSpec
from workers.data.dataset import Dataset, load_dataset
from workers.data.part import Part
from workers.data.sources import Places


def loaded(storage: Path | str, **spec: Any) -> Dataset:
    """What a recipe's `data` names, below a storage or the data root `root`."""
    places = Places(str(storage), (spec.pop("root", str(storage)),))
    parsed: Any = TypeAdapter(DataSpec).validate_python(spec)
    return load_dataset(parsed, places)


def features(part: Part) -> Tensor:
    """All samples in order, (N, ...)."""
    return torch.cat(list(part.passes()))


def labels(part: Part) -> Tensor:
    """All labels in order, (N,)."""
    return part.labels(torch.arange(len(part)))
