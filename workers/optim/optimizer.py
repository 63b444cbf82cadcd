"""One optimizer step, whole: from a gradient to new weights.

In this order: measure the gradient, undo the scale of the loss and clip, leave the step out if it
is no number, move each layer at its rate, take the weights into their running mean. All of it stays
on the device, and all that it changes is in `tensors()`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.contract.training_spec import OptimizerSpec, TrainingSpec
from workers.optim.guard import Guard
from workers.optim.methods import Condition, Method
from workers.parallel.sharding import local, whole


@dataclass(frozen=True)
class _Group:
    """Parameters that share a rate."""

    depth: int  # layers above them: 0 for the head
    rate: float  # of the learning rate
    names: list[str]
    parameters: list[nn.Parameter]
    method: Method


class Optimizer:
    """Moves named parameters by a method of torch.optim.

    Args:
        parameters: by their names in the stage's objective.
        spec: the method.
        training: what else there is to a step; None for a pretraining stage, which has nothing.
        layer_names: the net's layers from the input on, to tell depths by.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        spec: OptimizerSpec,
        training: TrainingSpec | None = None,
        layer_names: Sequence[str] = (),
    ) -> None:
        self._training = training
        self._groups = _grouped(parameters, spec, training, layer_names)
        self._parameters = list(parameters.values())
        self._names = list(parameters)
        self._averages: list[Tensor] = []
        self.guard: Guard | None = None
        """What decides whether a step is left out; None where none ever is."""
        if training is not None:
            guard = Guard(training, self._parameters[0].device)
            self.guard = guard if guard.skips else None
            if training.ema is not None:
                self._averages = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def step(self, lr: float, momentum: float, stage_step: int = 0, epoch: int = 0) -> None:
        """Move every parameter that trains in this epoch along its gradient, which is changed.

        Args:
            lr: the rate of the head.
            momentum: for SGD only.
            stage_step: steps of the stage that were done before.
            epoch: of the stage, from 0.
        """
        groups = [group for group in self._groups if group.depth <= self._depth_trained(epoch)]
        gradients = [[_gradient(one) for one in group.parameters] for group in groups]
        condition = self._condition([one for part in gradients for one in part])
        for group, present in zip(groups, gradients, strict=True):
            group.method.step(present, lr * group.rate, momentum, condition)
        if self._averages:
            self._average(stage_step)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the parameters are their running means, if such are kept."""
        trained = [parameter.detach().clone() for parameter in self._parameters if self._averages]
        self.settle()
        try:
            yield
        finally:
            _copy(trained, self._parameters)

    def settle(self) -> None:
        """Make the parameters their running means for good, if such are kept."""
        _copy(self._averages, self._parameters)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the state by what it is and whose; the tensors themselves, to load into."""
        tensors: dict[str, dict[str, Tensor]] = {}
        for group in self._groups:
            for kind, state in group.method.state.items():
                named = zip(group.names, state, strict=True)
                tensors.setdefault(kind, {}).update(named)
        if self._averages:
            tensors["average"] = dict(zip(self._names, self._averages, strict=True))
        if self.guard is not None:
            tensors["guard"] = {"state": self.guard.state}
        return tensors

    def _condition(self, gradients: list[Tensor]) -> Condition:
        """Say what makes gradients fit to step along, without another pass over them."""
        guard = self.guard
        clip_norm = None if self._training is None else self._training.clip_norm
        if guard is None and clip_norm is None:
            return Condition()
        norm, divisor = whole(torch.nn.utils.get_total_norm(gradients)), None
        if guard is not None and guard.scales:
            divisor = guard.scale.clone()  # of this step's loss: to judge may change it
            norm = norm / divisor
        is_void = None if guard is None else guard.judge(norm)
        if clip_norm is not None:  # as torch.nn.utils.clip_grad_norm_ does it
            excess = torch.clamp((norm + 1e-6) / clip_norm, min=1.0)
            divisor = excess if divisor is None else divisor * excess
        return Condition(divisor, is_void)

    def _depth_trained(self, epoch: int) -> float:
        every = 0 if self._training is None else self._training.unfreeze_every_epochs
        return epoch // every if every > 0 else float("inf")

    def _average(self, stage_step: int) -> None:
        assert self._training is not None
        assert self._training.ema is not None
        # The first steps are soon forgotten: a mean over 1,000 steps is no use after 10.
        decay = min(self._training.ema, (1.0 + stage_step) / (10.0 + stage_step))
        averages = [local(average) for average in self._averages]
        torch._foreach_lerp_(averages, [local(one) for one in self._parameters], 1.0 - decay)


def _grouped(
    parameters: Mapping[str, nn.Parameter],
    spec: OptimizerSpec,
    training: TrainingSpec | None,
    layer_names: Sequence[str],
) -> list[_Group]:
    decay = 1.0 if training is None else training.layer_decay
    has_depths = training is not None and (decay < 1.0 or training.unfreeze_every_epochs > 0)
    depths: dict[int, list[str]] = {}
    for name in parameters:
        depths.setdefault(_depth(name, layer_names) if has_depths else 0, []).append(name)
    groups = []
    for depth, names in depths.items():
        members = [parameters[name] for name in names]
        groups.append(_Group(depth, decay**depth, names, members, Method(members, spec)))
    return groups


def _depth(name: str, layer_names: Sequence[str]) -> int:
    """How many layers are above a parameter of the net; 0 for those of its heads."""
    _net, part, *rest = name.split(".")
    return len(layer_names) - layer_names.index(rest[0]) if part == "layers" else 0


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "every parameter is trained"
    return parameter.grad


@torch.no_grad()
def _copy(sources: Sequence[Tensor], goals: Sequence[Tensor]) -> None:
    for source, goal in zip(sources, goals, strict=False):  # none where no mean is kept
        local(goal).copy_(local(source))
