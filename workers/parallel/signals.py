"""What the ranks agree on after every step: whether to stop and why, and whether to add up figures.

Each rank raises its marks before a step; after it every rank reads the same sum. So all of them
stop after the same step, although the order reached them at different ones.
"""

import torch

from workers.contract.outcome import StopReason

REASONS = tuple(StopReason)


class Signals:
    """One mark for each reason to stop, and one that says that a report is due."""

    def __init__(self) -> None:
        self.marks = torch.zeros(len(REASONS) + 1)  # on the CPU: reading it waits for no GPU

    def raise_marks(self, stop: StopReason | None, report: bool) -> None:
        """Set this rank's marks for the coming step."""
        self.marks.zero_()
        if stop is not None:
            self.marks[REASONS.index(stop)] = 1.0
        if report:
            self.marks[-1] = 1.0

    def read(self) -> tuple[StopReason | None, bool]:
        """Return what the marks of all ranks say; call it when they have been summed."""
        *stops, report = self.marks.tolist()
        reason = next((REASONS[k] for k, mark in enumerate(stops) if mark > 0), None)
        return reason, report > 0
