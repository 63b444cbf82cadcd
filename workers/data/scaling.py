"""How features are scaled: fitted to the training part alone, and then the same for all parts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.contract.data_spec import Scale
from workers.contract.outcome import ConfigFailure

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scaling:
    """x -> (x - shift) / divisor, for each feature or for all alike."""

    shift: Floats
    divisor: Floats

    @classmethod
    def fitted(cls, x_N: Floats, scale: Scale, largest: float | None) -> "Scaling":
        """Fit to features that are in memory.

        Args:
            x_N: those of the training part, (N, ...).
            scale: what the recipe says.
            largest: the top of the source's range from 0, where it is known.
        """
        zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        if scale == "none":
            return cls(zero, one)
        if scale == "standardize":
            spread = x_N.std(axis=0, dtype=np.float64).astype(np.float32)
            mean = x_N.mean(axis=0, dtype=np.float64).astype(np.float32)
            return cls(mean, np.where(spread > 0, spread, one))  # a constant feature: 0
        if largest is not None:
            return cls(zero, one * np.float32(largest))
        low, high = x_N.min(), x_N.max()
        return cls(zero + low, one * (high - low) if high > low else one)

    @classmethod
    def fitted_to_pieces(
        cls, pieces: Iterable[npt.NDArray[Any]], scale: Scale, largest: float | None
    ) -> "Scaling":
        """Fit to features that come some rows at a time; they are looked at once at the most.

        Raises:
            ConfigFailure: some are NaN or infinite.
        """
        zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        if scale == "none":
            return cls(zero, one)
        if scale == "unit" and largest is not None:
            return cls(zero, one * np.float32(largest))
        count, low, high = 0, np.inf, -np.inf
        mean: Any = 0.0
        squares: Any = 0.0  # of the distances from the mean (Chan, Golub and LeVeque, 1979)
        for piece in pieces:
            x_B = np.asarray(piece, np.float64)
            if not np.isfinite(x_B).all():
                raise ConfigFailure("data: some features are NaN or infinite; clean them first")
            low, high = min(low, x_B.min()), max(high, x_B.max())
            away = x_B.mean(axis=0) - mean
            total = count + len(x_B)
            squares = squares + ((x_B - x_B.mean(axis=0)) ** 2).sum(axis=0)
            squares = squares + away**2 * (count * len(x_B) / total)
            mean, count = mean + away * (len(x_B) / total), total
        if scale == "unit":
            return cls(zero + np.float32(low), one * np.float32(high - low if high > low else 1.0))
        spread = np.sqrt(squares / max(1, count)).astype(np.float32)
        return cls(np.asarray(mean, np.float32), np.where(spread > 0, spread, one))

    def applied(self, x_N: npt.NDArray[Any]) -> Floats:
        """Return scaled features, in one piece of memory."""
        return np.ascontiguousarray((x_N - self.shift) / self.divisor, dtype=np.float32)
