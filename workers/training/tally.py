"""The sums of a stage's losses: over the epoch for its figures, over a while for its progress.

Each rank adds up its own part on its device, without waiting for it; the ranks' sums are put
together at the few steps at which somebody looks. Only the sum of the epoch belongs to the
training's state: when a report is due is a matter of the clock.
"""

import math

import torch
from torch import Tensor

from workers.parallel.collectives import summed
from workers.parallel.mesh import Seat

EPOCH, WHILE = 0, 1


class Tally:
    """Sums of losses, in float64, so that an epoch of a million steps keeps its digits."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        # For each: the sum, and how many losses are left out of it.
        self._sums = torch.zeros(2, 2, dtype=torch.float64, device=seat.device)
        self._losses, self._left_out = self._sums.unbind(1)
        self._steps_of_while = 0

    def add(self, loss: Tensor, leave_out_non_finite: bool = False) -> None:
        """Count one step's loss; it need not be known yet."""
        self._steps_of_while += 1
        if leave_out_non_finite:
            is_finite = torch.isfinite(loss)
            self._left_out.add_(~is_finite)
            loss = torch.where(is_finite, loss, 0.0)
        self._losses.add_(loss)

    def close_while(self) -> float:
        """Return the mean loss since the last call and begin anew; every rank calls it.

        Not finite, if any loss of any rank since then was not, or if all were left out.
        """
        mean = self._mean(WHILE, self._steps_of_while)
        self._begin_while()
        return mean

    def close_epoch(self, steps: int) -> float:
        """Return the mean loss of the epoch and begin the next; every rank calls it."""
        mean = self._mean(EPOCH, steps)
        self._sums[EPOCH] = 0.0
        return mean

    def leave_out(self, steps: int) -> None:
        """Count steps of the epoch that are never made; every rank calls it."""
        self._left_out[EPOCH] += steps

    def begin_epoch(self, steps_left_out: int) -> None:
        """Begin an epoch without its first steps; every rank calls it."""
        self._sums[EPOCH] = 0.0
        self.leave_out(steps_left_out)

    def epoch_sum(self) -> float:
        """Return the sum of the epoch so far, mean over ranks; every rank calls it."""
        return float(summed(self._losses[EPOCH], self._seat)) / self._seat.world_size

    def own_sum(self) -> Tensor:
        """Return this rank's sum of the epoch so far and how many it lacks, (2,), a copy."""
        return self._sums[EPOCH].clone()

    def restore(self, own_sum: Tensor) -> None:
        """Go on from such a sum."""
        self._sums[EPOCH] = own_sum
        self._begin_while()

    def restore_mean(self, mean_over_ranks: float) -> None:
        """Go on from `epoch_sum`, at any number of ranks."""
        self._sums[EPOCH] = 0.0
        self._losses[EPOCH] = mean_over_ranks
        self._begin_while()

    def _begin_while(self) -> None:
        self._sums[WHILE] = 0.0
        self._steps_of_while = 0

    def _mean(self, which: int, steps: int) -> float:
        total, left_out = summed(self._sums[which], self._seat).tolist()
        kept = max(1, steps) * self._seat.world_size - left_out
        return float(total / kept) if kept > 0 else math.nan
