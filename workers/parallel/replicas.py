"""Copies of one module on every rank, whose gradients are the mean over all samples of a batch.

Not over ranks: where the global batch does not divide, their parts differ by one sample, so each
rank's loss is weighed by its share before DDP, FSDP or we take the mean over ranks.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from workers.contract.outcome import ConfigFailure
from workers.contract.training_spec import TrainingSpec
from workers.parallel.mesh import Seat
from workers.parallel.sharding import is_sharded, sharded_modules
from workers.parallel.signals import Signals

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

NAMED_MAX = 5  # parameters that a sentence names
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Replicas:
    """The copies of a module whose forward pass gives the mean loss of a batch.

    Args:
        module: holds all that trains, and nothing that does not; whole, or in shards.
        seat: this rank's place.
        fills_gradients: the forward pass writes each parameter's `.grad` itself, without autograd;
            they are averaged in one flat all-reduce.
        training: precision, micro-batches and compilation; None: none of these.
    """

    def __init__(
        self,
        module: nn.Module,
        seat: Seat,
        fills_gradients: bool,
        training: TrainingSpec | None = None,
    ) -> None:
        assert training is None or not fills_gradients, "those are for autograd"
        self._module = module
        self._seat = seat
        self._fills = fills_gradients
        self._parameters = list(module.parameters())
        self._num_parts = 1 if training is None else training.accumulate
        self._dtype = None if training is None else DTYPES.get(training.precision)
        self._compiled = _Compiled(module) if training is not None and training.compile else None
        self._wrapped = self._compiled or module
        self._ddp: DistributedDataParallel | None = None
        self._shards: list[FSDPModule] = []
        if is_sharded(module):
            self._shards = sharded_modules(module)
        elif not seat.is_alone and not fills_gradients:
            self._wrapped = self._ddp = _ddp(self._wrapped)
        self._is_first = True  # of the passes

    def gradients(
        self,
        x_BV: Tensor,
        y_B: Tensor,
        share: float,
        signals: Signals,
        scale: Tensor | None = None,
        is_looked_at: bool = False,
    ) -> Tensor:
        """Set every gradient for this rank's part of a batch, and sum the signals over ranks.

        Args:
            x_BV: this rank's inputs.
            y_B: its labels.
            share: its number of samples, divided by the mean number over ranks.
            signals: its marks; those of all ranks afterwards.
            scale: a factor of every gradient, (); 1 if left out.
            is_looked_at: hooks watch this pass, so it must not go through compiled code.

        Returns:
            The rank's mean loss times its share: the mean over ranks is that over all samples.

        Raises:
            ConfigFailure: the loss does not depend on some parameter; on every rank.
        """
        for parameter in self._parameters:
            parameter.grad = None
        # Begun before the forward pass, so that it costs nothing but its own few microseconds.
        agreed = None if self._seat.is_alone else dist.all_reduce(signals.marks, async_op=True)
        if self._fills:
            loss = self._filled(x_BV, y_B, share)
        else:
            loss = self._differentiated(x_BV, y_B, share, scale, is_looked_at)
        if agreed is not None:
            agreed.wait()
        return loss

    def release(self) -> None:
        """Let go of the gradients: they are views of buffers that end with this object."""
        for parameter in self._parameters:
            parameter.grad = None

    def _differentiated(
        self, x_BV: Tensor, y_B: Tensor, share: float, scale: Tensor | None, is_looked_at: bool
    ) -> Tensor:
        """The gradients by autograd."""
        is_first, self._is_first = self._is_first, False
        if is_first and self._ddp is not None:
            self._settle(x_BV, y_B)
        if self._compiled is not None:
            self._compiled.is_looked_at = is_looked_at
        loss = self._accumulated(x_BV, y_B, share, scale)
        if is_first:
            self._check_gradients()
        return loss

    def _accumulated(self, x_BV: Tensor, y_B: Tensor, share: float, scale: Tensor | None) -> Tensor:
        """The gradients of all micro-batches added up, the ranks' mean taken with the last one."""
        if self._num_parts == 1:
            return self._backward(x_BV, y_B, share, scale)
        xs, ys = x_BV.tensor_split(self._num_parts), y_B.tensor_split(self._num_parts)
        losses = []
        for k in range(self._num_parts):
            part = share * len(ys[k]) / len(y_B)
            with self._averaging(k == self._num_parts - 1):
                losses.append(self._backward(xs[k], ys[k], part, scale))
        return torch.stack(losses).sum()

    def _backward(self, x_bV: Tensor, y_b: Tensor, share: float, scale: Tensor | None) -> Tensor:
        loss = self._forward(x_bV, y_b)
        if share != 1.0:
            loss = loss * share
        torch.autograd.backward(loss if scale is None else loss * scale)
        return loss.detach()

    def _forward(self, x_bV: Tensor, y_b: Tensor) -> Tensor:
        if self._dtype is None:
            loss: Tensor = self._wrapped(x_bV, y_b)
        else:
            with torch.autocast(self._seat.device.type, dtype=self._dtype):
                loss = self._wrapped(x_bV, y_b)
        return loss

    def _averaging(self, is_last: bool) -> AbstractContextManager[None]:
        """Whether the ranks' mean is taken within the block: for all micro-batches at once."""
        for one in self._shards:
            one.set_requires_gradient_sync(is_last, recurse=False)
        return nullcontext() if is_last or self._ddp is None else self._ddp.no_sync()

    def _settle(self, x_BV: Tensor, y_B: Tensor) -> None:
        """Do a backward pass that changes nothing, so that DDP lays out its buckets for good.

        It lays them out anew after its first pass. From three ranks on the order in which numbers
        are added depends on the layout, so a resumed run would differ in its first step: seen.
        Compiled code is passed by: it may see to gradients in another order than a pass that is
        looked at, and hooks that watch this one must not be compiled into it.
        """
        if self._compiled is not None:
            self._compiled.is_looked_at = True
        buffers = [buffer.clone() for buffer in self._module.buffers()]
        devices = [self._seat.device] if self._seat.device.type == "cuda" else []
        parts = self._num_parts
        with torch.random.fork_rng(devices=devices):
            first = x_BV.tensor_split(parts)[0], y_B.tensor_split(parts)[0]
            torch.autograd.backward(self._forward(*first))
        for buffer, before in zip(self._module.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self._check_gradients()
        self.release()

    def _check_gradients(self) -> None:
        named = self._module.named_parameters()
        left_out = [name for name, parameter in named if parameter.grad is None]
        if left_out:
            more = f" and {len(left_out) - NAMED_MAX} more" if len(left_out) > NAMED_MAX else ""
            raise ConfigFailure(
                f"model: the loss does not depend on {', '.join(left_out[:NAMED_MAX])}{more}, or "
                "they are frozen (requires_grad is False); leave out what is not used, and make a "
                "buffer of what shall not be trained (register_buffer)"
            )

    def _filled(self, x_BV: Tensor, y_B: Tensor, share: float) -> Tensor:
        """The gradients that the forward pass leaves, the ranks' mean taken in one piece."""
        loss: Tensor = self._module(x_BV, y_B)
        if self._seat.is_alone:
            return loss
        gradients = [_gradient(parameter) for parameter in self._parameters]
        weight = share / self._seat.world_size
        flat = torch.cat([gradient.view(-1) * weight for gradient in gradients])
        dist.all_reduce(flat)
        pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))
        return loss * share


def _ddp(module: nn.Module) -> "DistributedDataParallel":
    from torch.nn.parallel import DistributedDataParallel  # takes 0.7 s, once

    return DistributedDataParallel(module, gradient_as_bucket_view=True)


class _Compiled(nn.Module):
    """A module beside its compiled twin, which knows no hooks; they share all parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._plain = module
        self._fast = torch.compile(module)
        self.is_looked_at = False

    def forward(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        loss: Tensor = (self._plain if self.is_looked_at else self._fast)(x_BV, y_B)
        return loss


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "the forward pass sets every gradient"
    return parameter.grad
