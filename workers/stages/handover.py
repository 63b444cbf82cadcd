"""What one stage hands to the next: the training part as the layers trained so far encode it.

The prefix below a stage is frozen and in eval mode, so its codes never change while it lasts. Kept
in memory they cost one layer's forward pass per stage; not kept, every batch goes through the whole
prefix again, which at depth 9 doubles the time of a stage. Letters: N samples of the training
part, B of a batch, V inputs of the stage's layer, H its outputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

ROWS_AT_ONCE = 4096  # bounds the memory of a pass over all samples; 65,536 wide it is 1 GiB
PROBABILITY_MIN = 0.01  # a unit that is never on starts at logit -4.6, from where it can come back


class Samples(Protocol):
    """The training part, wherever it lies; see `workers.data.dataset.Part`."""

    def __len__(self) -> int: ...

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return some samples, (B, ...)."""

    def passes(self) -> Iterator[Tensor]:
        """Yield all samples in order, some at a time."""


@dataclass(frozen=True)
class Codes:
    """Codes of all samples, kept in memory."""

    x_NV: Tensor

    def __len__(self) -> int:
        return len(self.x_NV)

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return some of them, (B, V); they are the same in every epoch."""
        return self.x_NV.index_select(0, indices_B)

    def passes(self) -> Iterator[Tensor]:
        """Yield all in order."""
        yield from torch.split(self.x_NV, ROWS_AT_ONCE)


class Inputs:
    """What a stage's layer sees, for every sample; `prefix` is what is still to be computed."""

    def __init__(self, samples: Samples, prefix: Sequence[nn.Module] = ()) -> None:
        self._samples = samples
        self._prefix = tuple(prefix)

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return the inputs of some samples in this epoch, (B, V)."""
        x_BV = self._samples.rows(indices_B, epoch)
        return encoded(x_BV, self._prefix) if self._prefix else x_BV

    def passes(self) -> Iterator[Tensor]:
        """Yield the inputs of all samples in order, some rows at a time."""
        for x_BV in self._samples.passes():
            yield encoded(x_BV, self._prefix) if self._prefix else x_BV

    def above(self, layer: nn.Module, keep: bool) -> "Inputs":
        """Return the inputs of the layer above `layer`, kept in memory or not."""
        if not keep:
            return Inputs(self._samples, (*self._prefix, layer))
        return Inputs(Codes(torch.cat([encoded(x_BV, [layer]) for x_BV in self.passes()])))

    def mean(self) -> Tensor:
        """Return the mean over samples, (V,)."""
        total_V = sum(x_BV.sum(0, dtype=torch.float64) for x_BV in self.passes())
        assert isinstance(total_V, Tensor)
        return (total_V / len(self._samples)).float()

    def spread(self) -> float:
        """Return the standard deviation over samples, mean over the V units.

        A code that hardly varies tells its samples apart badly, however low its stage's loss: nets
        with 0.03 or less in some layer stay stuck.
        """
        mean_V = self.mean()
        squares_V = sum(
            (x_BV - mean_V).square().sum(0, dtype=torch.float64) for x_BV in self.passes()
        )
        assert isinstance(squares_V, Tensor)
        return float((squares_V / len(self._samples)).sqrt().mean())

    def limits(self) -> tuple[float, float]:
        """Return the least and the greatest input."""
        limits = [torch.stack(torch.aminmax(x_BV)) for x_BV in self.passes()]
        low, high = torch.stack(limits).unbind(1)
        return float(low.min()), float(high.max())


@torch.no_grad()
def encoded(x_BV: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """Return the clean code of frozen layers: in eval mode, so without dropout."""
    code_BH = x_BV
    for layer in layers:
        layer.eval()
        code_BH = layer(code_BH)
    return code_BH


def bias_of_mean(mean_V: Tensor, as_probability: bool) -> Tensor:
    """Return the bias with which a decoder that knows nothing else gives the mean of its data.

    For sigmoid units that is the logit of the mean (Hinton, 2012, section 8), so the weights need
    not learn it first.
    """
    if not as_probability:
        return mean_V
    return torch.logit(mean_V, eps=PROBABILITY_MIN)
