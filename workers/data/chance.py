"""Chance that follows from a sample's number: the same bits in any batch, rank and process.

It is no generator, whose state would depend on what was asked before, but a hash of the seed, what
it is for, the epoch, and the sample's number. The hash is splitmix64 (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", 2014). Letters: B samples at once.
"""

import torch
from torch import Tensor

from workers.data.seeds import derived_seed

# Of splitmix64, as the signed 64-bit numbers that torch has; their products wrap as they must.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
SHIFTS = (30, 27, 31)
UNIFORM_BITS = 52  # so that a half more is still exact as a float64, and less than 1


class Draws:
    """What chance gives to some samples in one epoch; other words, other chance."""

    def __init__(self, indices_B: Tensor, epoch: int, seed: int) -> None:
        self._indices_B = indices_B
        self._epoch = epoch
        self._seed = seed

    def uniform(self, what_for: str) -> Tensor:
        """Return a number in (0, 1) for each sample, (B,) float64."""
        return _uniform(self._bits(what_for))

    def below(self, what_for: str, limit: int) -> Tensor:
        """Return a whole number in [0, limit) for each sample, (B,) int64."""
        return (self.uniform(what_for) * limit).long().clamp(max=limit - 1)

    def normal(self, what_for: str, shape: torch.Size) -> Tensor:
        """Return standard normal numbers of a shape for each sample, (B, *shape) float32."""
        places = torch.arange(shape.numel(), device=self._indices_B.device)
        bits = _mixed(self._bits(what_for)[:, None] + (places + 1) * GOLDEN)
        # By the inverse of the distribution: it needs one uniform number for each normal one.
        normal: Tensor = torch.special.ndtri(_uniform(bits))
        return normal.float().view(-1, *shape)

    def _bits(self, what_for: str) -> Tensor:
        key = derived_seed(self._seed, what_for, self._epoch)
        return _mixed((self._indices_B + 1) * GOLDEN + key)


def _mixed(bits: Tensor) -> Tensor:
    """The finalizer of splitmix64: every bit of the result hangs on every bit, int64."""
    for shift, multiplier in zip(SHIFTS, MULTIPLIERS, strict=False):
        bits = (bits ^ _shifted(bits, shift)) * multiplier
    return bits ^ _shifted(bits, SHIFTS[-1])


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Shift to the right and fill with zeros; torch fills with the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _uniform(bits: Tensor) -> Tensor:
    """Make of each 64 bits a number in (0, 1), float64."""
    return (_shifted(bits, 64 - UNIFORM_BITS).double() + 0.5).mul(2.0**-UNIFORM_BITS)
