"""What one stage hands to the next: the training part as the layers trained so far encode it.

The prefix below a stage is frozen and in eval mode, so its codes never change while it lasts. Kept
in memory or on disk they cost one layer's forward pass per stage; not kept, every batch goes
through the whole prefix again, which at depth 9 doubles the time of a stage. Samples that change in
each epoch have no codes that could be kept. Letters: N samples of the training part, B of a batch,
V inputs of the stage's layer, H its outputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor, nn

from workers.data.part import Part, rows_at_once
from workers.stages.kept_codes import GIB, digest_above, kept_on_disk, num_bytes

Cache = Literal["memory", "disk", "none"]

CODES_IN_MEMORY_BYTES_MAX = 4 * GIB  # of each rank; a fixed limit, so that every attempt does alike
PROBABILITY_MIN = 0.01  # a unit that is never on starts at logit -4.6, from where it can come back


class NotKept(Exception):
    """Codes that have no room; the message is the beginning of a sentence for the owner."""


@dataclass(frozen=True)
class Codes:
    """Codes of all samples, kept; the same in every epoch."""

    x_NV: Tensor  # on the device, or mapped from the node's disk
    device: torch.device
    digest: str | None = None  # where they are on disk

    def rows(self, indices_B: Tensor) -> Tensor:
        """Return some of them, (B, V)."""
        return self.x_NV.index_select(0, indices_B.to(self.x_NV.device)).to(self.device)

    def passes(self) -> Iterator[Tensor]:
        """Yield all in order."""
        for x_BV in torch.split(self.x_NV, rows_at_once(self.x_NV.shape[1:])):
            yield x_BV.to(self.device)


class Inputs:
    """What a stage's layer sees, for every sample of a part of the data.

    Args:
        part: the samples.
        kept: their codes as far as they are kept; None: the samples themselves.
        prefix: layers that are still to be gone through, each time anew.
        model: what decides on codes beside data and weights, such as activations; see
            `catalog.first_inputs`.
    """

    def __init__(
        self,
        part: Part,
        kept: Codes | None = None,
        prefix: Sequence[nn.Module] = (),
        model: str = "",
    ) -> None:
        self.part = part
        self._kept = kept
        self._prefix = tuple(prefix)
        self._model = model

    def expect(self, batches: Iterator[Tensor], epoch: int) -> None:
        """Tell the part which batches come next, if they are read from there."""
        if self._kept is None:
            self.part.expect(batches, epoch)

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return the inputs of some samples in this epoch, (B, V)."""
        kept = self._kept
        x_BV = self.part.rows(indices_B, epoch) if kept is None else kept.rows(indices_B)
        return encoded(x_BV, self._prefix) if self._prefix else x_BV

    def passes(self) -> Iterator[Tensor]:
        """Yield the inputs of all samples in order, some rows at a time."""
        for x_BV in self.part.passes() if self._kept is None else self._kept.passes():
            yield encoded(x_BV, self._prefix) if self._prefix else x_BV

    def above(self, layer: nn.Module, cache: Cache) -> "Inputs":
        """Return the inputs of the layer above `layer`, kept or not.

        Raises:
            NotKept: they do not fit there; `cache: none` does without.
        """
        codes = (encoded(x_BV, [layer]) for x_BV in self.passes())
        match cache:
            case "none":
                return Inputs(self.part, self._kept, (*self._prefix, layer), self._model)
            case "memory":
                x_NH = _in_memory(codes, len(self.part))
                return Inputs(self.part, Codes(x_NH, x_NH.device), model=self._model)
            case "disk":
                digest, device = digest_above(self._digest(), [layer]), self._device()
                try:
                    x_NH = kept_on_disk(digest, len(self.part), codes, device)
                except OSError as error:
                    raise NotKept(
                        f"The codes of the layers below were not kept on disk ({error})"
                    ) from error
                return Inputs(self.part, Codes(x_NH, device, digest), model=self._model)
            case unknown:
                assert_never(unknown)

    def _digest(self) -> str:
        if self._kept is None:
            return digest_above(f"{self._model} {self.part.digest()}", self._prefix)
        assert self._kept.digest is not None, "a job's codes are kept in one place"
        return digest_above(self._kept.digest, self._prefix)

    def _device(self) -> torch.device:
        return next(self.part.passes()).device if self._kept is None else self._kept.device

    def mean(self) -> Tensor:
        """Return the mean over samples, (V,)."""
        total_V = sum(x_BV.sum(0, dtype=torch.float64) for x_BV in self.passes())
        assert isinstance(total_V, Tensor)
        return (total_V / len(self.part)).float()

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
        return float((squares_V / len(self.part)).sqrt().mean())

    def limits(self) -> tuple[float, float]:
        """Return the least and the greatest input."""
        limits = [torch.stack(torch.aminmax(x_BV)) for x_BV in self.passes()]
        low, high = torch.stack(limits).unbind(1)
        return float(low.min()), float(high.max())


def _in_memory(codes: Iterator[Tensor], num_samples: int) -> Tensor:
    """All codes as one tensor, (N, V), where the first ones lie."""
    x_NV: Tensor | None = None
    start = 0
    for x_BV in codes:
        if x_NV is None:
            shape = (num_samples, *x_BV.shape[1:])
            needed_bytes = num_bytes(shape)
            if needed_bytes > CODES_IN_MEMORY_BYTES_MAX:
                raise NotKept(
                    "The codes of the layers below were not kept in memory (they take "
                    f"{needed_bytes / GIB:.1f} GiB of every rank, and may take "
                    f"{CODES_IN_MEMORY_BYTES_MAX / GIB:.1f}; cache: disk keeps more)"
                )
            x_NV = x_BV.new_empty(shape)
        x_NV[start : start + len(x_BV)] = x_BV
        start += len(x_BV)
    assert x_NV is not None, "a training part has samples"
    return x_NV


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
