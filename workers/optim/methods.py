"""The methods of torch.optim in their functional forms: its arithmetic without its classes.

The first torch.optim object of a process imports torch._dynamo for the decorators of its methods,
0.7 s that a short job's first step would wait for; the functions do not. State is made at once, not
at the first step, so that a checkpoint can be loaded into it in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.adamax import adamax
from torch.optim.adamw import adamw
from torch.optim.nadam import nadam
from torch.optim.radam import radam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from workers.contract.training_spec import Adagrad, Adam, AdamVariant, OptimizerSpec, Rmsprop, Sgd
from workers.parallel.sharding import local

NADAM_MOMENTUM_DECAY = 4e-3  # torch's own default
FUSED = (Sgd, Adam)  # one pass over memory, in which they divide gradients or leave a step out


@dataclass(frozen=True)
class Condition:
    """What is to be done about the gradients of a step, decided on the device without a wait."""

    divisor: Tensor | None = None  # of every gradient, (); None: 1
    is_void: Tensor | None = None  # 1.0 where the step must change nothing, (); None: it is not


class Method:
    """One method over a list of parameters that share a learning rate.

    Each parameter has state only where its method needs it; sharded parameters have theirs sharded
    alike, and each rank steps its own shards.
    """

    def __init__(self, parameters: Sequence[Tensor], spec: OptimizerSpec) -> None:
        self._spec = spec
        self._parameters = list(parameters)
        self.state = {
            kind: [_initial(kind, parameter, spec) for parameter in parameters]
            for kind in _kinds(spec)
        }
        """Tensors by what they are, one for each parameter."""

    def step(
        self, gradients: Sequence[Tensor], lr: float, momentum: float, condition: Condition
    ) -> None:
        """Move every parameter along its gradient, which may be changed.

        Args:
            gradients: one for each parameter.
            lr: the rate.
            momentum: for SGD only, whose momentum may change within a stage.
            condition: of the gradients.
        """
        parameters = [local(parameter) for parameter in self._parameters]
        state = {kind: [local(one) for one in tensors] for kind, tensors in self.state.items()}
        present = [local(gradient) for gradient in gradients]
        if not isinstance(self._spec, FUSED):
            is_void, divisor = condition.is_void, condition.divisor
            if (
                is_void is not None and float(is_void) > 0.0
            ):  # the one wait for the device in a step
                return
            if divisor is not None:
                torch._foreach_div_(present, divisor)
        match self._spec:
            case Sgd():
                _sgd(self._spec, parameters, present, state, lr, momentum, condition)
            case Adam():
                _adam(self._spec, parameters, present, state, lr, condition)
            case AdamVariant():
                _adam_variant(self._spec, parameters, present, state, lr)
            case Rmsprop():
                _rmsprop(self._spec, parameters, present, state, lr)
            case Adagrad():
                _adagrad(self._spec, parameters, present, state, lr)
            case _:
                assert_never(self._spec)


State = dict[str, list[Tensor]]


def _kinds(spec: OptimizerSpec) -> tuple[str, ...]:
    match spec:
        case Sgd():
            return ("momentum",)
        case Adam():
            most = ("second_moment_max",) if spec.amsgrad else ()
            return ("first_moment", "second_moment", "count", *most)
        case AdamVariant():
            moments = ("first_moment", "second_moment", "count")
            return (*moments, "momentum_product") if spec.name == "nadam" else moments
        case Rmsprop():
            centered = ("gradient_mean",) if spec.centered else ()
            momentum = ("momentum",) if spec.momentum > 0.0 else ()
            return ("square_mean", "count", *centered, *momentum)
        case Adagrad():
            return ("square_sum", "count")
        case _:
            assert_never(spec)


def _initial(kind: str, parameter: Tensor, spec: OptimizerSpec) -> Tensor:
    if kind not in ("count", "momentum_product"):
        return torch.zeros_like(parameter)
    # Fused kernels read counts beside the parameters; the others compute with them on the host.
    device = parameter.device if isinstance(spec, FUSED) else torch.device("cpu")
    return torch.full((), 1.0 if kind == "momentum_product" else 0.0, device=device)


def _sgd(
    spec: Sgd,
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: State,
    lr: float,
    momentum: float,
    condition: Condition,
) -> None:
    # A buffer of zeros and momentum * 0 + gradient is what torch.optim starts with.
    without: list[Tensor | None] = [None] * len(gradients)
    buffers: list[Tensor | None] = [*state["momentum"]] if momentum > 0.0 else without
    sgd(
        parameters,
        gradients,
        buffers,
        fused=True,
        grad_scale=condition.divisor,
        found_inf=condition.is_void,
        weight_decay=spec.weight_decay,
        momentum=momentum,
        lr=lr,
        dampening=0.0,
        nesterov=spec.nesterov,
        maximize=False,
    )


def _adam(
    spec: Adam,
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: State,
    lr: float,
    condition: Condition,
) -> None:
    step = adam if spec.name == "adam" else adamw
    step(
        parameters,
        gradients,
        state["first_moment"],
        state["second_moment"],
        state.get("second_moment_max", []),
        state["count"],
        fused=True,
        grad_scale=condition.divisor,
        found_inf=condition.is_void,
        amsgrad=spec.amsgrad,
        beta1=spec.betas[0],
        beta2=spec.betas[1],
        lr=lr,
        weight_decay=spec.weight_decay,
        eps=spec.eps,
        maximize=False,
    )


def _adam_variant(
    spec: AdamVariant,
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: State,
    lr: float,
) -> None:
    first, second, counts = state["first_moment"], state["second_moment"], state["count"]
    beta1, beta2 = spec.betas
    decay, eps = spec.weight_decay, spec.eps
    match spec.name:
        case "nadam":
            nadam(
                parameters,
                gradients,
                first,
                second,
                state["momentum_product"],
                counts,
                foreach=True,
                beta1=beta1,
                beta2=beta2,
                lr=lr,
                weight_decay=decay,
                momentum_decay=NADAM_MOMENTUM_DECAY,
                decoupled_weight_decay=spec.decoupled_weight_decay,
                eps=eps,
            )
        case "radam":
            radam(
                parameters,
                gradients,
                first,
                second,
                counts,
                decoupled_weight_decay=spec.decoupled_weight_decay,
                foreach=True,
                beta1=beta1,
                beta2=beta2,
                lr=lr,
                weight_decay=decay,
                eps=eps,
            )
        case "adamax":
            adamax(
                parameters,
                gradients,
                first,
                second,
                counts,
                foreach=True,
                eps=eps,
                beta1=beta1,
                beta2=beta2,
                lr=lr,
                weight_decay=decay,
            )
        case _:
            assert_never(spec.name)


def _rmsprop(
    spec: Rmsprop,
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: State,
    lr: float,
) -> None:
    rmsprop(
        parameters,
        gradients,
        state["square_mean"],
        state.get("gradient_mean", []),
        state.get("momentum", []),
        state["count"],
        foreach=True,
        lr=lr,
        alpha=spec.alpha,
        eps=spec.eps,
        weight_decay=spec.weight_decay,
        momentum=spec.momentum,
        centered=spec.centered,
    )


def _adagrad(
    spec: Adagrad,
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: State,
    lr: float,
) -> None:
    adagrad(
        parameters,
        gradients,
        state["square_sum"],
        state["count"],
        foreach=True,
        lr=lr,
        weight_decay=spec.weight_decay,
        lr_decay=0.0,
        eps=spec.eps,
        maximize=False,
    )
