"""How features are scaled: fitted to the training part alone, and then the same for all parts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.contract.data_spec import Scale

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Scaling:
    """x -> (x - shift) / divisor, for each feature or for all alike."""

    shift: Floats
    divisor: Floats

    @classmethod
    def from_range(cls, low: float, high: float) -> "Scaling":
        """Return what brings [low, high] into [0, 1]; what has one value only becomes 0."""
        one = np.ones(1, np.float32)
        return cls(one * np.float32(low), one * np.float32(high - low if high > low else 1.0))

    @classmethod
    def from_moments(cls, mean: Array, spread: Array) -> "Scaling":
        """Return what brings features to zero mean and unit variance; constant ones become 0."""
        shift, divisor = np.asarray(mean, np.float32), np.asarray(spread, np.float32)
        return cls(shift, np.where(divisor > 0, divisor, np.ones(1, np.float32)))

    @classmethod
    def fitted(cls, x_N: Floats, scale: Scale, largest: float | None) -> "Scaling":
        """Fit to features that are in memory.

        Args:
            x_N: those of the training part, (N, ...).
            scale: what the recipe says.
            largest: the top of the source's range from 0, where it is known.
        """
        if scale == "standardize":
            mean, spread = x_N.mean(axis=0, dtype=np.float64), x_N.std(axis=0, dtype=np.float64)
            return cls.from_moments(mean, spread)
        known = known_scaling(scale, largest)
        return known or cls.from_range(x_N.min(), x_N.max())

    @classmethod
    def fitted_to_pieces(
        cls, pieces: Iterable[Array], scale: Scale, largest: float | None
    ) -> "Scaling":
        """Fit to features that come some rows at a time; they are looked at once at the most."""
        known = known_scaling(scale, largest)
        if known is not None:
            return known
        moments, low, high = Moments(), np.inf, -np.inf
        for x_B in pieces:
            if scale == "standardize":
                moments.add(x_B)
            else:
                low, high = min(low, float(x_B.min())), max(high, float(x_B.max()))
        if scale == "standardize":
            return cls.from_moments(moments.mean, moments.spread)
        return cls.from_range(low, high)

    def applied(self, x_N: Array) -> Floats:
        """Return scaled features, in one piece of memory."""
        return np.ascontiguousarray((x_N - self.shift) / self.divisor, dtype=np.float32)


def known_scaling(scale: Scale, largest: float | None) -> Scaling | None:
    """Return the scaling for which no feature need be looked at; None where it is another.

    Args:
        scale: what the recipe says.
        largest: the top of the source's range from 0, where it is known.
    """
    if scale == "none":
        return Scaling.from_range(0.0, 1.0)
    if scale == "unit" and largest is not None:
        return Scaling.from_range(0.0, largest)
    return None


class Moments:
    """Mean and standard deviation of features that come some rows at a time.

    By the distances from the mean so far (Chan, Golub and LeVeque, 1979): sums of squares would
    lose all digits where the mean is large.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0  # float64, of the shape of a sample from the first rows on
        self._squares: Any = 0.0

    def add(self, x_B: Array) -> None:
        """Count some rows, (B, ...)."""
        # As they are seen, so that all values of a constant feature are the same number.
        x_B = np.asarray(x_B, np.float32).astype(np.float64)
        total = self.count + len(x_B)
        mean = x_B.mean(axis=0)
        away = mean - self.mean
        self._squares = self._squares + ((x_B - mean) ** 2).sum(axis=0)
        self._squares = self._squares + away**2 * (self.count * len(x_B) / total)
        self.mean, self.count = self.mean + away * (len(x_B) / total), total

    @property
    def spread(self) -> Any:
        """The standard deviation, float64."""
        return np.sqrt(self._squares / max(1, self.count))
