"""The published names of a net's tensors, and ours: so that weights from elsewhere can be taken.

Published are those of torchvision, which other collections of weights follow too. Every one has
exactly one of ours, and its values stand in the same order there: only names change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from workers.contract.model_spec import IMAGE_BLOCKS, InceptionModel, ModelSpec, ResnetModel
from workers.contract.outcome import ConfigFailure
from workers.models.resnet import BOTTLENECKS_FROM

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
HEAD = {"fc.weight": "head.linear.weight", "fc.bias": "head.linear.bias"}
AUXILIARY_HEAD = {
    "AuxLogits.fc.weight": "auxiliary.head.linear.weight",
    "AuxLogits.fc.bias": "auxiliary.head.linear.bias",
}
AUXILIARY = "AuxLogits."
COUNT = ".num_batches_tracked"  # files of before 2018 lack it, and nothing here reads it

MIXED_5 = {
    "branch1x1": "0.0",
    **{f"branch5x5_{k}": f"1.{k - 1}" for k in (1, 2)},
    **{f"branch3x3dbl_{k}": f"2.{k - 1}" for k in (1, 2, 3)},
    "branch_pool": "3.0",
}
REDUCING_6 = {"branch3x3": "0.0", **{f"branch3x3dbl_{k}": f"1.{k - 1}" for k in (1, 2, 3)}}
MIXED_6 = {
    "branch1x1": "0.0",
    **{f"branch7x7_{k}": f"1.{k - 1}" for k in (1, 2, 3)},
    **{f"branch7x7dbl_{k}": f"2.{k - 1}" for k in (1, 2, 3, 4, 5)},
    "branch_pool": "3.0",
}
REDUCING_7 = {
    **{f"branch3x3_{k}": f"0.{k - 1}" for k in (1, 2)},
    **{f"branch7x7x3_{k}": f"1.{k - 1}" for k in (1, 2, 3, 4)},
}
MIXED_7 = {
    "branch1x1": "0.0",
    "branch3x3_1": "1.trunk.0",
    "branch3x3_2a": "1.wide",
    "branch3x3_2b": "1.high",
    "branch3x3dbl_1": "2.trunk.0",
    "branch3x3dbl_2": "2.trunk.1",
    "branch3x3dbl_3a": "2.wide",
    "branch3x3dbl_3b": "2.high",
    "branch_pool": "3.0",
}
INCEPTION_BLOCKS = {
    **dict.fromkeys(("5b", "5c", "5d"), MIXED_5),
    "6a": REDUCING_6,
    **dict.fromkeys(("6b", "6c", "6d", "6e"), MIXED_6),
    "7a": REDUCING_7,
    **dict.fromkeys(("7b", "7c"), MIXED_7),
}
"""By block: the published name of each convolution, and its place among our branches."""

INCEPTION_PLAIN = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")


@dataclass(frozen=True)
class Mapped:
    """Weights under our names, and what of ours they do not hold: a head of other classes."""

    weights: dict[str, Tensor]
    left_out: tuple[str, ...]


def published_names(model: ModelSpec) -> dict[str, str]:
    """Return our name of every published tensor of a net, weights and buffers.

    Raises:
        ConfigFailure: no weights of such a net were published under names that are known here.
    """
    match model:
        case ResnetModel(width=None | 64) if not model.is_for_small_images:
            return dict(_resnet_names(model.depth)) | HEAD
        case InceptionModel():
            return dict(_inception_names(model.auxiliary)) | HEAD
        case _:
            raise ConfigFailure(
                f"model.kind: there are no published names for this {model.kind}; they are known "
                "for resnet of depth 18, 34, 50, 101 and 152, and for inception_v3"
            )


def to_ours(model: ModelSpec, published: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapped:
    """Rename published weights; those of a head of other classes are left out.

    Args:
        model: the net that both are of.
        published: by their published names.
        own: the state of our net, for its shapes.

    Raises:
        ConfigFailure: a tensor is missing, unknown, or has another shape or kind of numbers.
    """
    names = published_names(model)
    if isinstance(model, InceptionModel) and not model.auxiliary:
        published = {k: v for k, v in published.items() if not k.startswith(AUXILIARY)}
    _check_names(names, published, model)
    weights: dict[str, Tensor] = {}
    for name, ours in names.items():
        tensor, place = published.get(name), own[ours]
        if tensor is None:
            weights[ours] = place.clone()
            continue
        if tensor.is_floating_point() != place.is_floating_point():
            raise ConfigFailure(
                f"{name} holds {tensor.dtype}, but this {model.kind} takes {place.dtype}; bring "
                "weights that are not quantized"
            )
        if tensor.shape == place.shape:
            weights[ours] = tensor.to(place.dtype)
        elif name not in HEAD | AUXILIARY_HEAD or tensor.shape[1:] != place.shape[1:]:
            raise ConfigFailure(
                f"{name} has the shape {tuple(tensor.shape)}, but this {model.kind} takes "
                f"{tuple(place.shape)}"
            )
    for head in (HEAD, AUXILIARY_HEAD):
        if len({ours in weights for ours in head.values()}) > 1:
            raise ConfigFailure(f"{' and '.join(head)} are of different numbers of classes")
    return Mapped(weights, tuple(ours for ours in names.values() if ours not in weights))


def _check_names(
    names: Mapping[str, str], published: Mapping[str, Tensor], model: ModelSpec
) -> None:
    missing = [name for name in names if name not in published and not name.endswith(COUNT)]
    if missing:
        raise ConfigFailure(
            f"{missing[0]} is missing{_more(missing)}: these are not the weights of this "
            f"{model.kind}, or their names are not the published ones"
        )
    unexpected = [name for name in published if name not in names]
    if unexpected:
        raise ConfigFailure(
            f"{unexpected[0]} is not expected{_more(unexpected)}: these are the weights of another "
            f"net than this {model.kind}"
        )


def _more(names: list[str]) -> str:
    return f", and {len(names) - 1} more" if len(names) > 1 else ""


def _resnet_names(depth: int) -> Iterator[tuple[str, str]]:
    yield from _convolution("conv1", "bn1", "layers.stem.first")
    num_convolutions = 3 if depth >= BOTTLENECKS_FROM else 2
    block = 0
    for group, num_blocks in enumerate(IMAGE_BLOCKS[depth], start=1):
        for k in range(num_blocks):
            block += 1
            theirs, ours = f"layer{group}.{k}", f"layers.block-{block:02d}"
            for c in range(num_convolutions):
                yield from _convolution(
                    f"{theirs}.conv{c + 1}", f"{theirs}.bn{c + 1}", f"{ours}.body.{c}"
                )
            # The first group's channels change only where blocks are bottlenecks.
            if k == 0 and (group > 1 or num_convolutions == 3):
                skip = f"{theirs}.downsample"
                yield from _convolution(f"{skip}.0", f"{skip}.1", f"{ours}.skip")


def _inception_names(auxiliary: bool) -> Iterator[tuple[str, str]]:
    for place in INCEPTION_PLAIN:
        layer = f"layers.conv-{place[:2]}.convolution"
        yield from _conv_and_bn(f"Conv2d_{place}", layer)
    for block, convolutions in INCEPTION_BLOCKS.items():
        for theirs, ours in convolutions.items():
            yield from _conv_and_bn(
                f"Mixed_{block}.{theirs}", f"layers.mixed-{block}.branches.{ours}"
            )
    if auxiliary:
        yield from _conv_and_bn(f"{AUXILIARY}conv0", "auxiliary.first")
        yield from _conv_and_bn(f"{AUXILIARY}conv1", "auxiliary.second")
        yield from AUXILIARY_HEAD.items()


def _conv_and_bn(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield from _convolution(f"{theirs}.conv", f"{theirs}.bn", ours)


def _convolution(conv: str, norm: str, ours: str) -> Iterator[tuple[str, str]]:
    """A convolution without bias and its batch normalization."""
    yield f"{conv}.weight", f"{ours}.conv.weight"
    for part in NORM:
        yield f"{norm}.{part}", f"{ours}.norm.{part}"
