"""A job that begins from another one's net: its weights, by name, before anything is trained."""

from torch import Tensor

from workers.checkpoint.agreement import failing_together
from workers.checkpoint.weights import net_weights
from workers.contract.init_spec import InitSpec
from workers.contract.manifest import CheckpointDamaged
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.contract.reports import CheckpointRef, Noticed
from workers.training.course import Course

NAMED_MAX = 5  # tensors that a sentence names


def begin_from(course: Course, init: InitSpec) -> None:
    """Copy the weights of a checkpoint into the net, and tell of it; collective.

    Raises:
        ConfigFailure: the net is another one: names or shapes differ, or with `partial` all do.
        StorageFailure: the checkpoint is damaged, or can't be read; on every rank.
    """
    if init.path is None or init.manifest_sha256 is None:
        raise ConfigFailure(f"init_from: {init.source!r} was not resolved; submit the job anew")
    ref = CheckpointRef(
        path=init.path,
        manifest_sha256=init.manifest_sha256,
        stage_index=0,
        stage="",
        step=0,
        attempt=0,
    )
    found: dict[str, Tensor] = {}
    with failing_together(course.seat.world_size):
        try:
            found = net_weights(course.launch.storage_url, ref)
        except CheckpointDamaged as error:
            raise StorageFailure(f"init_from: {init.path} is damaged or gone: {error}") from error
    own = course.net.state_dict()
    fitting = [name for name in own if name in found and own[name].shape == found[name].shape]
    left = [name for name in own if name not in fitting]
    unused = [name for name in found if name not in fitting]
    if not fitting or (not init.partial and (left or unused)):
        raise ConfigFailure(
            f"init_from: the net of {init.source} is another one: {len(fitting)} of {len(own)} "
            f"tensors fit, {_named(left or unused)} not; mend the model, or say partial: true"
        )
    for name in fitting:
        own[name].copy_(found[name])
    rest = f"; {_named(left)} begin at random" if left else ""
    course.tell(
        Noticed(
            code="initialized_from",
            sentence=f"Begins with {len(fitting)} of {len(own)} tensors of {init.path}{rest}.",
        )
    )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
