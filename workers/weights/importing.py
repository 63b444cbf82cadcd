"""Brings weights that were published elsewhere into shared storage, under our names.

From there any job begins with them by `init_from: {weights: ...}`.
"""

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from workers.contract.model_spec import IMAGE_BLOCKS, ModelSpec
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.models.catalog import build_net
from workers.models.layered import seeded
from workers.models.mapping import AUXILIARY, to_ours
from workers.weights.file import write_weights

ARCHITECTURES: dict[str, dict[str, Any]] = {
    **{f"resnet{depth}": {"kind": "resnet", "depth": depth} for depth in IMAGE_BLOCKS},
    "inception_v3": {"kind": "inception_v3"},
}
IMAGENET = "{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}"
NORMALIZE = dict.fromkeys(ARCHITECTURES, IMAGENET) | {
    # Its publisher takes images that are normalized as for the others, and undoes that in the net.
    "inception_v3": "{mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}"
}
"""By architecture: `data.normalize` of the images that torchvision's weights were trained on."""

PUBLISHED_SHAPE = (3, 299, 299)  # weights depend on the channels alone
PUBLISHED_CLASSES = 1000


@dataclass(frozen=True)
class Imported:
    """What was written, and what a job that begins with it says of its net and its images."""

    sha256: str  # of the file
    num_tensors: int
    left_out: tuple[str, ...]  # what of the net it does not hold
    model: dict[str, Any]  # the job's `model`
    normalize: str  # the job's `data.normalize`, in YAML


def import_weights(
    source: Path,
    architecture: str,
    num_classes: int | None,
    to: str,
    storage_url: str,
    data_roots: tuple[str, ...] = (),
) -> Imported:
    """Write published weights under our names to `to`.

    Args:
        source: a .safetensors, or what torch.save wrote of a state dict.
        architecture: one of ARCHITECTURES.
        num_classes: of the net that shall begin with them; with other classes than the file's its
            head is left out. None: the file's own.
        to: a path below the storage root, or a URL below it or a data root.
        storage_url: the storage root.
        data_roots: other places that jobs may read from.

    Raises:
        ConfigFailure: they are not the weights of this net, or can't be read or written there.
        StorageFailure: storage refused them.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigFailure(
            f"no published names are known for {architecture!r}; known are "
            f"{', '.join(ARCHITECTURES)}"
        )
    published = _read(source)
    written = dict(ARCHITECTURES[architecture])
    if architecture == "inception_v3":  # it is published both with its second head and without
        written["auxiliary"] = any(name.startswith(AUXILIARY) for name in published)
    model: ModelSpec = TypeAdapter(ModelSpec).validate_python(written)
    if num_classes is None:
        num_classes = published["fc.bias"].numel() if "fc.bias" in published else PUBLISHED_CLASSES
    own = build_net(model, PUBLISHED_SHAPE, num_classes, seeded(0)).state_dict()
    mapped = to_ours(model, published, own)
    origin = {"source": source.name, "source_sha256": _sha256(source), "net": architecture}
    sha256 = write_weights(to, mapped.weights, origin, storage_url, data_roots)
    return Imported(sha256, len(mapped.weights), mapped.left_out, written, NORMALIZE[architecture])


def _read(source: Path) -> Mapping[str, Tensor]:
    """The tensors of a file by name; nothing in it is run."""
    try:
        if source.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(source)
        found = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StorageFailure(f"{source} can't be read: {error}") from error
    except pickle.UnpicklingError as error:
        raise ConfigFailure(
            f"{source} is no file of weights alone, so it was not opened; save its state dict, "
            "best as .safetensors"
        ) from error
    except Exception as error:  # each format has failures of its own, without a common root
        raise ConfigFailure(f"{source} is no file of weights: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(one, Tensor) for one in found.values()):
        raise ConfigFailure(f"{source} holds something else than tensors by name")
    return found


def _sha256(source: Path) -> str:
    with source.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
