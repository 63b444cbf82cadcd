"""The sums of a stage's losses: over the epoch for its figures, over a while for its progress.

Each rank notes its own losses without waiting for its device, and adds them up, one after the
other, when somebody looks: how often that is changes no bit of a sum. The ranks' sums are put
together then. Only the sum of the epoch belongs to the training's state: when a report is due is a
matter of the clock.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.parallel.collectives import summed
from workers.parallel.mesh import Seat

NOTED_MAX = 1000  # losses that wait to be added up: half a MB on a GPU


@dataclass
class _Sum:
    """Of losses, in float64, so that an epoch of a million steps keeps its digits."""

    losses: float = 0.0
    left_out: float = 0.0  # how many


class Tally:
    """Sums of losses.

    Args:
        seat: this rank's place.
        leaves_out: losses that are not finite count as if their steps had not been made.
    """

    def __init__(self, seat: Seat, *, leaves_out: bool = False) -> None:
        self._seat = seat
        self._leaves_out = leaves_out
        self._noted: list[Tensor] = []
        self._epoch, self._while = _Sum(), _Sum()
        self._steps_of_while = 0

    def add(self, loss: Tensor) -> None:
        """Count one step's loss, (); it need not be known yet."""
        self._steps_of_while += 1
        self._noted.append(loss)
        if len(self._noted) >= NOTED_MAX:
            self._add_up()

    def close_while(self) -> float:
        """Return the mean loss since the last call and begin anew; every rank calls it.

        Not finite, if any loss of any rank since then was not, or if all were left out.
        """
        self._add_up()
        mean = self._mean(self._while, self._steps_of_while)
        self._begin_while()
        return mean

    def close_epoch(self, steps: int) -> float:
        """Return the mean loss of the epoch and begin the next; every rank calls it."""
        self._add_up()
        mean = self._mean(self._epoch, steps)
        self._epoch = _Sum()
        return mean

    def leave_out(self, steps: int) -> None:
        """Count steps of the epoch that are never made; every rank calls it."""
        self._epoch.left_out += steps

    def begin_epoch(self, steps_left_out: int) -> None:
        """Begin an epoch without its first steps; every rank calls it."""
        self._epoch = _Sum(left_out=steps_left_out)

    def epoch_sum(self) -> float:
        """Return the sum of the epoch so far, mean over ranks; every rank calls it."""
        self._add_up()
        return self._over_ranks(self._epoch)[0] / self._seat.world_size

    def own_sum(self) -> Tensor:
        """Return this rank's sum of the epoch so far and how many it lacks, (2,) float64."""
        self._add_up()
        return torch.tensor([self._epoch.losses, self._epoch.left_out], dtype=torch.float64)

    def restore(self, own_sum: Tensor) -> None:
        """Go on from such a sum."""
        losses, left_out = own_sum.tolist()
        self._epoch = _Sum(losses, left_out)
        self._begin_while()

    def restore_mean(self, mean_over_ranks: float) -> None:
        """Go on from `epoch_sum`, at any number of ranks."""
        self._epoch = _Sum(mean_over_ranks)
        self._begin_while()

    def _begin_while(self) -> None:
        self._noted.clear()
        self._while = _Sum()
        self._steps_of_while = 0

    def _add_up(self) -> None:
        """Add what was noted to both sums; waits for the device."""
        if not self._noted:
            return
        for loss in torch.stack(self._noted).tolist():
            for one in (self._epoch, self._while):
                if self._leaves_out and not math.isfinite(loss):
                    one.left_out += 1
                else:
                    one.losses += loss
        self._noted.clear()

    def _mean(self, one: _Sum, steps: int) -> float:
        losses, left_out = self._over_ranks(one)
        kept = max(1, steps) * self._seat.world_size - left_out
        return losses / kept if kept > 0 else math.nan

    def _over_ranks(self, one: _Sum) -> tuple[float, float]:
        own = torch.tensor(
            [one.losses, one.left_out], dtype=torch.float64, device=self._seat.device
        )
        losses, left_out = summed(own, self._seat).tolist()
        return losses, left_out
