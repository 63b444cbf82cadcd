"""Decides on the device whether a step's gradient is a number, and how much a loss is scaled.

All ranks decide alike without a word: they see the same averaged gradient. Nothing here is read on
the host but when somebody asks for figures.
"""

import torch
from torch import Tensor

from workers.contract.training_spec import TrainingSpec

VOID_IN_A_ROW_MAX = 100  # of a hundred steps none changed a weight: none ever will
# float16 ends at 65,504 and begins at 6e-8: gradients are lifted as far as they go without an
# overflow, by halving at each overflow and doubling after as many good steps (Micikevicius, 2018).
SCALE_FIRST = 65_536.0
SCALE_MAX = 2.0**24
GOOD_STEPS = 2000

SCALE, GOOD, VOID = range(3)  # and void steps in a row after those of the stage


class Guard:
    """What is known of a stage's steps so far: a part of its state.

    Args:
        spec: says which precision, and what to do about a gradient that is not finite.
        device: where the gradients are.
    """

    def __init__(self, spec: TrainingSpec, device: torch.device) -> None:
        self.scales = spec.precision == "fp16"
        self.skips = self.scales or spec.on_non_finite == "skip"
        first = SCALE_FIRST if self.scales else 1.0
        self.state = torch.tensor([first, 0.0, 0.0, 0.0], device=device)
        """Scale of the loss; good steps at this scale; void steps, of the stage and in a row."""
        self._voids = self.state[VOID:]
        self._of_stage = torch.tensor([1.0, 0.0], device=device)  # what a good step leaves of them
        self._limits = torch.tensor([SCALE_MAX, GOOD_STEPS], device=device)

    @property
    def scale(self) -> Tensor:
        """What the loss is multiplied by before the backward pass, ()."""
        return self.state[SCALE]

    def judge(self, gradient_norm: Tensor) -> Tensor:
        """Count a step by the norm of its gradient; return 1.0 where it must change nothing, ()."""
        is_bad = gradient_norm * 0.0 != 0.0  # as torch.isfinite says, in two kernels instead of six
        counted = torch.where(is_bad, self._voids + 1.0, self._voids * self._of_stage)
        self._voids.copy_(counted)
        is_void = is_bad.float()
        if self.scales:
            good = (self.state[GOOD] + 1.0) * (1.0 - is_void)
            grows = good >= self._limits[1]
            factor = 1.0 - 0.5 * is_void + grows.float()
            self.state[SCALE] = torch.minimum(self.state[SCALE] * factor, self._limits[0])
            self.state[GOOD] = good * (1.0 - grows.float())
        return is_void

    def counts(self) -> tuple[int, int]:
        """Return the void steps of the stage, and those in a row at its end; waits for them."""
        _, _, void, in_a_row = self.state.tolist()
        return int(void), int(in_a_row)
