"""Copies of one module on every rank, whose gradients are the mean over all samples of a batch.

Not over ranks: where the global batch does not divide, their parts differ by one sample, so each
rank's loss is weighed by its share before DDP, or we, take the mean over ranks.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from workers.parallel.mesh import Seat
from workers.parallel.signals import Signals


class Replicas:
    """The copies of a module whose forward pass gives the mean loss of a batch.

    Args:
        module: holds all that trains, and nothing that does not.
        seat: this rank's place.
        fills_gradients: the forward pass writes each parameter's `.grad` itself, without autograd;
            they are averaged in one flat all-reduce, which also carries the signals.
    """

    def __init__(self, module: nn.Module, seat: Seat, fills_gradients: bool) -> None:
        self._module = module
        self._seat = seat
        self._fills = fills_gradients
        self._parameters = list(module.parameters())
        self._wrapped = module
        self._has_settled = False
        if not seat.is_alone and not fills_gradients:
            from torch.nn.parallel import DistributedDataParallel  # takes 0.7 s, once

            self._wrapped = DistributedDataParallel(module, gradient_as_bucket_view=True)

    def gradients(self, x_BV: Tensor, y_B: Tensor, share: float, signals: Signals) -> Tensor:
        """Set every gradient for this rank's part of a batch, and sum the signals over ranks.

        Args:
            x_BV: this rank's inputs.
            y_B: its labels.
            share: its number of samples, divided by the mean number over ranks.
            signals: its marks; those of all ranks afterwards.

        Returns:
            The rank's mean loss times its share: the mean over ranks is that over all samples.
        """
        for parameter in self._parameters:
            parameter.grad = None
        if self._seat.is_alone:
            return self._alone(x_BV, y_B)
        if self._fills:
            return self._flat(x_BV, y_B, share, signals)
        if not self._has_settled:
            self._settle(x_BV, y_B)
        # Begun before the forward pass, so that it costs nothing but its own few microseconds.
        agreed = dist.all_reduce(signals.marks, async_op=True)
        loss: Tensor = self._wrapped(x_BV, y_B) * share
        torch.autograd.backward(loss)
        assert agreed is not None
        agreed.wait()
        return loss.detach()

    def release(self) -> None:
        """Let go of the gradients: they are views of buffers that end with this object."""
        for parameter in self._parameters:
            parameter.grad = None

    def _settle(self, x_BV: Tensor, y_B: Tensor) -> None:
        """Do a backward pass that changes nothing, so that DDP lays out its buckets for good.

        It lays them out anew after its first pass. From three ranks on the order in which numbers
        are added depends on the layout, so a resumed run would differ in its first step: seen.
        """
        buffers = [buffer.clone() for buffer in self._module.buffers()]
        devices = [self._seat.device] if self._seat.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.autograd.backward(self._wrapped(x_BV, y_B))
        for buffer, before in zip(self._module.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.release()
        self._has_settled = True

    def _alone(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        loss: Tensor = self._module(x_BV, y_B)
        if not self._fills:
            torch.autograd.backward(loss)
        return loss.detach()

    def _flat(self, x_BV: Tensor, y_B: Tensor, share: float, signals: Signals) -> Tensor:
        loss: Tensor = self._module(x_BV, y_B) * share
        gradients = [_gradient(parameter) for parameter in self._parameters]
        marks = signals.marks.to(loss.device)
        weight = share / self._seat.world_size
        flat = torch.cat([gradient.view(-1) * weight for gradient in gradients] + [marks])
        dist.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        signals.marks.copy_(flat[start:])
        return loss


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "the forward pass sets every gradient"
    return parameter.grad
