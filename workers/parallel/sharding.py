"""A net whose layers lie in shards over the ranks (FSDP2), and what a shard of a tensor is.

A layer is put together when its forward or backward pass needs it and let go of afterwards, so a
rank never holds more than a layer or two beside its shards.
"""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from workers.models.layered import Layered
from workers.parallel.mesh import Seat

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def shard(net: Layered, seat: Seat) -> None:
    """Turn the net's parameters into shards, in place, each layer on its own; collective.

    Names stay as they are. Every rank must then do the same forward passes.
    """
    from torch.distributed.device_mesh import init_device_mesh  # 0.7 s
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(seat.device.type, (seat.world_size,))
    for layer in net.layers.values():
        fully_shard(layer, mesh=mesh)
    # The heads, and whatever else is in no layer; after an evaluation these are let go of, too.
    fully_shard(net, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(net, "all_logits")


def is_sharded(module: nn.Module) -> bool:
    """Whether this rank holds shards of the module's parameters."""
    return any(not _is_plain(parameter) for parameter in module.parameters())


def sharded_modules(module: nn.Module) -> "list[FSDPModule]":
    """Return the parts of a module that are put together and let go of one at a time."""
    from torch.distributed.fsdp import FSDPModule

    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def local(tensor: Tensor) -> Tensor:
    """Return this rank's shard, which shares memory with the tensor; a whole tensor as it is."""
    if _is_plain(tensor):
        return tensor
    sharded: DTensor = tensor  # type: ignore[assignment]  # the only kind of tensor beside those
    shard: Tensor = sharded.to_local()
    return shard


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor that all shards make up together, on every rank; collective."""
    if _is_plain(tensor):
        return tensor
    sharded: DTensor = tensor  # type: ignore[assignment]  # as above
    return sharded.full_tensor()


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter)
