"""Layers that keep only their input for the backward pass and compute the rest of it anew then."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workers.models.layered import Layered


def recompute_layers(net: Layered) -> None:
    """Make every layer of the net do so, in place; names and values stay as they are."""
    for layer in net.layers.values():
        # Of this one object: no name of a parameter may change.
        layer.forward = partial(_recomputed, layer, layer.forward)


def _recomputed(layer: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # a compiler computes values anew, and nothing moves twice
        once: Tensor = checkpoint(forward, x, use_reentrant=False)
        return once
    h: Tensor = checkpoint(forward, x, use_reentrant=False, context_fn=partial(_contexts, layer))
    return h


def _contexts(
    layer: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the forward pass, and of the second one in the backward pass."""
    return nullcontext(), _keeping_buffers(layer)


@contextmanager
def _keeping_buffers(layer: nn.Module) -> Iterator[None]:
    """Running statistics move once in a step, however often their layer is computed."""
    buffers = list(layer.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, kept in zip(buffers, before, strict=True):
                buffer.copy_(kept)
