"""Samples that are made when they are asked for: noise around a mean of each class.

However many there are, they take no memory; a sample follows from its number alone. Letters: B
samples at once.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.contract.data_spec import SyntheticData
from workers.data.chance import Draws
from workers.data.order import epoch_order
from workers.data.part import rows_at_once
from workers.data.seeds import derived_seed

MIDDLE, SPREAD = 0.5, 0.1  # means and noise lie in [0, 1] nearly always; the rest is cut off


@dataclass(frozen=True)
class Synthetic:
    """Some of an endless row of samples, from `first` on."""

    spec: SyntheticData
    first: int
    count: int
    means: Tensor  # (classes, ...)
    changes = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.spec.shape

    def __len__(self) -> int:
        return self.count

    def digest(self) -> str:
        """Return a hash of what decides on the samples."""
        text = f"{self.spec.model_dump_json()} {self.first} {self.count}"
        return hashlib.sha256(text.encode()).hexdigest()

    def order(self, seed: int, stage_index: int, epoch: int) -> Tensor:
        """Return one permutation."""
        return epoch_order(self.count, seed, stage_index, epoch).to(self.means.device)

    def expect(self, batches: Iterator[Tensor], epoch: int) -> None:
        """Do nothing: `data.workers` makes them ahead."""

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return some samples in [0, 1], (B, ...)."""
        numbers_B = indices_B.to(self.means.device) + self.first
        seed = derived_seed(self.spec.data_seed, "synthetic")
        noise = Draws(numbers_B, 0, seed).normal("noise", torch.Size(self.shape))
        away = self.means[self._classes(numbers_B)] + self.spec.noise * noise
        return (MIDDLE + SPREAD * away).clamp_(0.0, 1.0)

    def labels(self, indices_B: Tensor) -> Tensor:
        """Return their classes, (B,)."""
        return self._classes(indices_B.to(self.means.device) + self.first)

    def passes(self) -> Iterator[Tensor]:
        """Yield all samples in order, some at a time."""
        for indices_B in torch.split(torch.arange(self.count), rows_at_once(self.shape)):
            yield self.rows(indices_B, 0)

    def to(self, device: torch.device) -> "Synthetic":
        """Return the part with its samples made on a device."""
        return replace(self, means=self.means.to(device))

    def close(self) -> None:
        """Do nothing: there are no processes."""

    def _classes(self, numbers_B: Tensor) -> Tensor:
        return numbers_B % self.spec.classes


def synthetic_parts(
    spec: SyntheticData,
) -> tuple[Synthetic, Synthetic | None, Synthetic | None]:
    """Return the train, validation and test parts, which have no sample in common."""
    generator = torch.Generator().manual_seed(derived_seed(spec.data_seed, "means"))
    means = torch.randn(spec.classes, *spec.shape, generator=generator)

    def part(first: int, count: int) -> Synthetic | None:
        return Synthetic(spec, first, count, means) if count > 0 else None

    validation = part(spec.samples, spec.validation_samples)
    test = part(spec.samples + spec.validation_samples, spec.test_samples)
    return Synthetic(spec, 0, spec.samples, means), validation, test
