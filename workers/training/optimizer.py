"""Optimizer steps in the functional forms of torch.optim: its arithmetic without its classes.

The first torch.optim object of a process imports torch._dynamo for the decorators of its methods,
0.7 s that a short job's first step would wait for; the functions do not. State is made at once, not
at the first step, so that a checkpoint can be loaded into it in place.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from workers.contract.training_spec import Adam, Sgd


class Optimizer:
    """torch.optim.SGD, Adam or AdamW over named parameters.

    Each parameter has state only where its method needs it; the fused kernels update all of them in
    one pass over memory.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], spec: Sgd | Adam) -> None:
        self._spec = spec
        self._names = list(parameters)
        self._parameters: list[Tensor] = list(parameters.values())
        self._first = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._second: list[Tensor] = []
        self._counts: list[Tensor] = []
        if isinstance(spec, Adam):
            self._second = [torch.zeros_like(parameter) for parameter in self._parameters]
            # Counts lie beside the parameters, because the fused kernels read them there.
            self._counts = [torch.zeros((), device=p.device) for p in self._parameters]

    @torch.no_grad()
    def step(self, lr: float, momentum: float) -> None:
        """Move every parameter along its gradient; `momentum` is for SGD only."""
        gradients = [parameter.grad for parameter in self._parameters]
        assert all(gradient is not None for gradient in gradients), "every parameter is trained"
        present = [gradient for gradient in gradients if gradient is not None]
        if isinstance(self._spec, Sgd):
            self._step_sgd(self._spec, present, lr, momentum)
        else:
            self._step_adam(self._spec, present, lr)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the state by what it is and whose; the tensors themselves, to load into."""
        if isinstance(self._spec, Sgd):
            return {"momentum": self._named(self._first)}
        return {
            "first_moment": self._named(self._first),
            "second_moment": self._named(self._second),
            "count": self._named(self._counts),
        }

    def _step_sgd(self, spec: Sgd, gradients: list[Tensor], lr: float, momentum: float) -> None:
        # A buffer of zeros and momentum * 0 + gradient is what torch.optim starts with.
        without: list[Tensor | None] = [None] * len(gradients)
        buffers: list[Tensor | None] = [*self._first] if momentum > 0.0 else without
        sgd(
            self._parameters,
            gradients,
            buffers,
            fused=True,
            weight_decay=spec.weight_decay,
            momentum=momentum,
            lr=lr,
            dampening=0.0,
            nesterov=spec.nesterov,
            maximize=False,
        )

    def _step_adam(self, spec: Adam, gradients: list[Tensor], lr: float) -> None:
        step = adam if spec.name == "adam" else adamw
        step(
            self._parameters,
            gradients,
            self._first,
            self._second,
            [],
            self._counts,
            fused=True,
            amsgrad=False,
            beta1=spec.betas[0],
            beta2=spec.betas[1],
            lr=lr,
            weight_decay=spec.weight_decay,
            eps=spec.eps,
            maximize=False,
        )

    def _named(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._names, tensors, strict=True))
