"""Looks into the layers every so many steps and says in words why a net does not learn.

Rank 0 alone looks where gradients and weights are the same on all ranks; where each has its shards,
all do, and add up what they see. Everything of one look is computed on the device and fetched at
once, so that the training waits for it only once.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from workers.contract.reports import Noticed
from workers.models.layered import Layered
from workers.parallel.collectives import summed
from workers.parallel.mesh import Seat
from workers.parallel.sharding import is_sharded, local

LAYERS_MAX = 12  # a curve each for more would bury the reader; evenly spaced, both ends included
EXPLODED = 1e3  # of the lowest layer over the highest: rescued and modern nets keep below 100
DEAD = 0.5  # half of a layer's units pass no gradient: its width is not what the recipe says
SATURATED = 0.9  # nearly all outputs where the slope is near 0
VANISHED = 1e-4  # measured: rescued nets 1/90 and better, stuck ones 1/600,000 and worse
COLLAPSED = 0.03  # measured: nets with a layer at or below stayed stuck, all with 0.07 learned
SATURATED_WITHIN = 0.01  # of an end of the activation's range, where its slope is near 0


@dataclass
class Look:
    """The tensors of one look, of each layer that is looked at; norms are of this rank's shards."""

    codes: dict[str, Tensor] = field(default_factory=dict)
    gradient_norms: list[Tensor] = field(default_factory=list)
    gradient_norm: Tensor = field(default_factory=lambda: torch.tensor(math.nan))  # of all
    weights_before: list[Tensor] = field(default_factory=list)


class Diagnostics:
    """Looks into a net while it is fine-tuned.

    Metrics of a layer: grad_norm (of its weights' gradient, before clipping), weight_norm,
    update_ratio (norm of the step over norm of the weights: 1e-3 is usual), code_mean and code_sd
    (of its output over rank 0's last micro-batch; the standard deviation is the mean over units),
    saturation (share of outputs at an end of a sigmoid's or a tanh's range) and, for relu, dead
    (share of units that are 0 for the whole batch). Of the whole net: grad_norm (of the gradient of
    all its parameters) and gradient_decay (the lowest layer's over the highest's, each as the root
    mean square).

    Args:
        net: as it lies in memory for the stage.
        layer_names: those that are looked at.
        seat: of a rank that takes part in looks.
    """

    def __init__(self, net: Layered, layer_names: Sequence[str], seat: Seat) -> None:
        self._layers = {name: net.layers[name] for name in layer_names}
        self._weights = [_main_weight(layer) for layer in self._layers.values()]
        self._parameters = list(net.parameters())
        numbers = {id(parameter): k for k, parameter in enumerate(self._parameters)}
        self._numbers = [numbers[id(weight)] for weight in self._weights]  # of those weights
        self._output = net.output
        self._seat = seat
        self._is_sharded = is_sharded(net)

    @classmethod
    def of(cls, net: Layered, seat: Seat) -> Self | None:
        """Return what this rank looks by; None where others look, or there is nothing to see."""
        weighted = tuple(name for name in net.names if _has_weight(net.layers[name]))
        if not weighted or not (seat.is_first or is_sharded(net)):
            return None
        return cls(net, _chosen(weighted), seat)

    @contextmanager
    def looking(self, scale: Tensor | None = None) -> Iterator[Look]:
        """Watch one forward pass; after it the gradients of the step are there, times `scale`."""
        look = Look()
        hooks = []
        for name, layer in self._layers.items() if self._seat.is_first else ():

            def keep(_m: nn.Module, _i: object, code_BH: Tensor, name: str = name) -> None:
                look.codes[name] = code_BH.detach()

            hooks.append(layer.register_forward_hook(keep))
        try:
            yield look
        finally:
            for hook in hooks:
                hook.remove()
        norms = torch.stack(_norms([_gradient(one) for one in self._parameters]))
        norms = norms if scale is None else norms / scale
        look.gradient_norms = [norms[k] for k in self._numbers]
        look.gradient_norm = norms.norm()
        look.weights_before = [local(weight).detach().clone() for weight in self._weights]

    @torch.no_grad()
    def metrics(self, look: Look) -> dict[str, float]:
        """Return the figures of a look, once the optimizer has stepped.

        Where the net is sharded, it is collective; all but rank 0 get no figures.
        """
        before, after = look.weights_before, [local(weight) for weight in self._weights]
        steps, weights = _norms(torch._foreach_sub(after, before)), _norms(before)
        norms = [look.gradient_norm, *look.gradient_norms, *weights, *steps]
        gradient_norm, *of_layers = self._over_shards(norms)
        if not self._seat.is_first:
            return {}
        count = len(self._layers)
        gradients, weights = of_layers[:count], of_layers[count : 2 * count]
        figures: dict[str, Tensor] = {}
        for k, name in enumerate(self._layers):
            figures[f"grad_norm.{name}"] = gradients[k]
            figures[f"weight_norm.{name}"] = weights[k]
            figures[f"update_ratio.{name}"] = of_layers[2 * count + k] / weights[k]
            code_BH = look.codes[name].float()
            figures[f"code_mean.{name}"] = code_BH.mean()
            figures[f"code_sd.{name}"] = code_BH.std(0, correction=0).mean()
            figures |= {f"{kind}.{name}": share for kind, share in self._ends(code_BH).items()}
        figures["grad_norm"] = gradient_norm
        figures["gradient_decay"] = self._rms(gradients, 0) / self._rms(gradients, -1)
        values = torch.stack([figure.float() for figure in figures.values()]).tolist()
        found = zip(figures, values, strict=True)
        return {name: value for name, value in found if math.isfinite(value)}

    def verdicts(self, metrics: Mapping[str, float]) -> list[Noticed]:
        """Return what the owner should know of these figures, the gravest first."""
        names = list(self._layers)
        found = [_of_decay(metrics.get("gradient_decay"), names[0], names[-1])]
        found.append(_of_layers(metrics, "dead", DEAD, "dead_units", DEAD_UNITS))
        found.append(
            _of_layers(metrics, "saturation", SATURATED, "saturated_units", SATURATED_UNITS)
        )
        return [noticed for noticed in found if noticed is not None]

    def _over_shards(self, norms: Sequence[Tensor]) -> Sequence[Tensor]:
        """The norms of what all ranks' shards make up together."""
        if not self._is_sharded:
            return norms
        # In float64 the square of a gradient that has all but vanished is still a number above 0.
        return summed(torch.stack(list(norms)).double().square(), self._seat).sqrt().unbind()

    def _rms(self, norms: Sequence[Tensor], k: int) -> Tensor:
        """The root mean square of a layer's gradient."""
        return norms[k] / math.sqrt(self._weights[k].numel())

    def _ends(self, code_BH: Tensor) -> dict[str, Tensor]:
        """The share of outputs, or of units, that pass no gradient."""
        match self._output:
            case "sigmoid":
                at_end = (code_BH - 0.5).abs() > 0.5 - SATURATED_WITHIN
                return {"saturation": at_end.float().mean()}
            case "tanh":
                return {"saturation": (code_BH.abs() > 1.0 - SATURATED_WITHIN).float().mean()}
            case "relu":
                return {"dead": (code_BH == 0.0).flatten(1).all(0).float().mean()}
            case _:
                return {}


DEAD_UNITS = (
    "units of {layer} are 0 for the whole batch and learn nothing more: lower the learning rate, "
    "warm it up (training.schedule.warmup_epochs), or normalise (model.normalization: batch)."
)
SATURATED_UNITS = (
    "outputs of {layer} lie at an end of their range, where the slope is near 0: lower model.gain "
    "or the learning rate, scale the data, or normalise."
)


def _of_decay(decay: float | None, lowest: str, highest: str) -> Noticed | None:
    """Say so if the gradient fades away on its way down, or grows out of bounds."""
    if decay is None or lowest == highest:
        return None
    if decay < VANISHED:
        smaller = f"{1 / decay:.0e} times smaller" if decay > 0 else "0, and so much smaller"
        return Noticed(
            code="vanishing_gradient",
            sentence=f"The gradient of {lowest} is {smaller} than that of {highest}: the net "
            "sits on a plateau and its lower layers do not learn. Pretrain it, raise model.gain "
            "(4 with xavier for sigmoids), or use relu with he, normalization, or residual layers.",
        )
    if decay > EXPLODED:
        return Noticed(
            code="exploding_gradient",
            sentence=f"The gradient of {lowest} is {decay:.0e} times larger than that of "
            f"{highest}: steps that fit the upper layers throw the lower ones about. Lower "
            "model.gain, set training.clip_norm, or use normalization or residual layers.",
        )
    return None


def _of_layers(
    metrics: Mapping[str, float], kind: str, limit: float, code: str, sentence: str
) -> Noticed | None:
    """Say so of the worst layer, if its share is above the limit."""
    shares = {
        name.removeprefix(f"{kind}."): share
        for name, share in metrics.items()
        if name.startswith(f"{kind}.")
    }
    layer = max(shares, key=lambda name: shares[name], default=None)
    if layer is None or shares[layer] <= limit:
        return None
    return Noticed(
        code=code, sentence=f"{shares[layer]:.0%} of the " + sentence.format(layer=layer)
    )


def collapsed(layer_name: str, code_sd: float) -> Noticed | None:
    """Say so if a pretrained layer's code hardly varies."""
    if code_sd > COLLAPSED:
        return None
    return Noticed(
        code="representation_collapsed",
        sentence=f"The code of {layer_name} hardly varies over the data (standard deviation "
        f"{code_sd:.3f}, {COLLAPSED} or less): fine-tuning will most likely stay stuck, however "
        "low the loss of the stage. Train it longer, or with another lr or reconstruction_loss.",
    )


def _chosen(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) <= LAYERS_MAX:
        return names
    last = len(names) - 1
    return tuple(names[k * last // (LAYERS_MAX - 1)] for k in range(LAYERS_MAX))


def _has_weight(layer: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in layer.parameters())


def _main_weight(layer: nn.Module) -> nn.Parameter:
    """The layer's first matrix: the one that a gradient from above reaches last."""
    return next(parameter for parameter in layer.parameters() if parameter.dim() > 1)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "every parameter is trained"
    return local(parameter.grad)


def _norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm(list(tensors)))
