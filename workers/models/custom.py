"""A net of the user's own, from a callable that the recipe names."""

from collections import Counter

import torch
from torch import Tensor, nn

from workers.contract.entry import called
from workers.contract.model_spec import CustomModel
from workers.contract.outcome import ConfigFailure
from workers.models.layered import Layer, Layered


class Wrapped(Layer):
    """A user's module as a layer."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return whatever the module gives."""
        h: Tensor = self.module(x)
        return h


def build_custom(
    model: CustomModel, shape: tuple[int, ...], num_classes: int, generator: torch.Generator
) -> Layered:
    """Call the user's callable; torch's own random numbers are seeded for it, alike on all ranks.

    Raises:
        ConfigFailure: it can't be imported, or gives something else than layers and a head.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        arguments = (shape, num_classes, generator)
        built = called(model.entry, "model", *arguments, **model.options)
    if isinstance(built, Layered):
        return built
    try:
        layers, head = built
        named = [(str(name), module) for name, module in layers]
    except (TypeError, ValueError) as error:
        raise _not_a_net(model.entry) from error
    names, modules = [name for name, _ in named], [module for _, module in named]
    if not named or not all(isinstance(module, nn.Module) for module in (*modules, head)):
        raise _not_a_net(model.entry)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigFailure(
            f"model.import: {model.entry} gives {twice[0]!r} to more than one layer; each needs a "
            "name of its own"
        )
    try:
        return Layered([Wrapped(module) for module in modules], head, names)
    except KeyError as error:  # torch's own containers have no place for it
        raise ConfigFailure(
            f"model.import: {model.entry} names a layer as none can be: {error.args[0]}"
        ) from error


def _not_a_net(entry: str) -> ConfigFailure:
    return ConfigFailure(
        f"model.import: {entry} must return (layers, head): a list of (name, module) from the "
        "input up, and a module that gives one logit per class"
    )
