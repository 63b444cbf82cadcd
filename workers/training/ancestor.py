"""A job that begins from a trained net: its weights, by name, before anything is trained."""

from torch import Tensor

from workers.checkpoint.agreement import failing_together
from workers.checkpoint.weights import net_weights
from workers.contract.init_spec import InitSpec
from workers.contract.manifest import CheckpointDamaged
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.contract.reports import CheckpointRef, Noticed
from workers.training.course import Course
from workers.weights.file import read_weights

NAMED_MAX = 5  # tensors that a sentence names


def begin_from(course: Course, init: InitSpec) -> None:
    """Copy the weights of a checkpoint or a file into the net, and tell of it; collective.

    Raises:
        ConfigFailure: the net is another one: names or shapes differ, or with `partial` all do; or
            the file is not there, or another one than was said.
        StorageFailure: the checkpoint is damaged, or can't be read; on every rank.
    """
    found: dict[str, Tensor] = {}
    with failing_together(course.seat.world_size):
        found = _checkpoint(course, init) if init.weights is None else _file(course, init)
    own = course.net.state_dict()
    fitting = [name for name in own if name in found and own[name].shape == found[name].shape]
    left = [name for name in own if name not in fitting]
    unused = [name for name in found if name not in fitting]
    if not fitting or (not init.partial and (left or unused)):
        raise ConfigFailure(
            f"init_from: the net of {init.source or init.weights} is another one: {len(fitting)} "
            f"of {len(own)} tensors fit, {_named(left or unused)} not; mend the model, or say "
            "partial: true"
        )
    for name in fitting:
        own[name].copy_(found[name])
    rest = f"; {_named(left)} begin at random" if left else ""
    course.tell(
        Noticed(
            code="initialized_from",
            sentence=f"Begins with {len(fitting)} of {len(own)} tensors of "
            f"{init.weights or init.path}{rest}.",
        )
    )


def _checkpoint(course: Course, init: InitSpec) -> dict[str, Tensor]:
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
    try:
        return net_weights(course.launch.storage_url, ref)
    except CheckpointDamaged as error:
        raise StorageFailure(f"init_from: {init.path} is damaged or gone: {error}") from error


def _file(course: Course, init: InitSpec) -> dict[str, Tensor]:
    assert init.weights is not None
    launch = course.launch
    return read_weights(init.weights, init.sha256, launch.storage_url, launch.data_roots)


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
