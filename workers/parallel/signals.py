"""What the ranks agree on after every step: whether to stop and why, and what is due by the clock.

Each rank raises its marks before a step; after it every rank reads the same sum. So all of them
stop after the same step, although the order reached them at different ones.
"""

from dataclasses import dataclass

import torch

from workers.contract.outcome import StopReason

REASONS = tuple(StopReason)


@dataclass(frozen=True)
class Agreed:
    """What the marks of all ranks say."""

    stop: StopReason | None
    is_report_due: bool
    is_save_due: bool


class Signals:
    """One mark for each reason to stop, and two for what is due by the clock of a rank."""

    def __init__(self) -> None:
        self.marks = torch.zeros(len(REASONS) + 2)  # on the CPU: reading it waits for no GPU

    def raise_marks(self, stop: StopReason | None, report: bool, save: bool) -> None:
        """Set this rank's marks for the coming step."""
        self.marks.zero_()
        if stop is not None:
            self.marks[REASONS.index(stop)] = 1.0
        for k, is_due in ((-2, report), (-1, save)):
            if is_due:
                self.marks[k] = 1.0

    def read(self) -> "Agreed":
        """Return what the marks of all ranks say; call it when they have been summed."""
        *stops, report, save = self.marks.tolist()
        reason = next((REASONS[k] for k, mark in enumerate(stops) if mark > 0), None)
        return Agreed(reason, is_report_due=report > 0, is_save_due=save > 0)
