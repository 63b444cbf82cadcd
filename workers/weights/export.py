"""Writes the net of a checkpoint as a file that needs no Strata: safetensors, or torch.export's.

safetensors holds the weights by name, for any code that builds such a net. torch.export's `.pt2`
holds the net itself, in eval mode and for batches of any size: `torch.export.load(...).module()`.
"""

import json
from pathlib import Path
from typing import Any, Literal, assert_never

import torch
from pydantic import BaseModel, TypeAdapter
from torch import Tensor

from workers.checkpoint.reader import peek_state
from workers.checkpoint.weights import net_weights
from workers.contract.manifest import CheckpointDamaged
from workers.contract.model_spec import ModelSpec
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.contract.reports import CheckpointRef
from workers.models.catalog import build_net
from workers.models.code import use_code
from workers.models.layered import Layered, seeded

Format = Literal["safetensors", "torch_export"]
EXAMPLE_BATCH = 2  # torch.export takes a batch of 1 for one that is always 1


class NetState(BaseModel):
    """What a checkpoint's state says of its net: enough to build it anew."""

    model: dict[str, Any]
    shape: tuple[int, ...]  # of one sample
    num_classes: int
    code: str | None = None


def export(storage_url: str, ref_json: str, form: Format, out: Path) -> None:
    """Write the net of a checkpoint to `out`, which appears when it is whole.

    Args:
        storage_url: the storage root.
        ref_json: a CheckpointRef.
        form: which file to write.
        out: where; an older file there is replaced.

    Raises:
        StorageFailure: the checkpoint is damaged, or can't be read.
        ConfigFailure: the net can't be written in this form.
    """
    ref = CheckpointRef.model_validate_json(ref_json)
    try:
        state = peek_state(storage_url, ref)
        weights = net_weights(storage_url, ref)
    except CheckpointDamaged as error:
        raise StorageFailure(f"{ref.path} is damaged: {error}") from error
    beside = out.with_name(f".{out.name}.part")
    try:
        match form:
            case "safetensors":
                _write_safetensors(beside, weights, ref, state)
            case "torch_export":
                _write_program(beside, weights, storage_url, state)
            case _:
                assert_never(form)
        beside.replace(out)
    finally:
        beside.unlink(missing_ok=True)


def _write_safetensors(
    out: Path, weights: dict[str, Tensor], ref: CheckpointRef, state: dict[str, Any]
) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ConfigFailure("safetensors is missing: pip install safetensors") from error
    origin = {
        "checkpoint": ref.path,
        "manifest_sha256": ref.manifest_sha256,
        "net": json.dumps(state.get("net")),
    }
    save_file(weights, out, metadata={"format": "pt", **origin})


def _write_program(
    out: Path, weights: dict[str, Tensor], storage_url: str, state: dict[str, Any]
) -> None:
    if "net" not in state:
        raise ConfigFailure("the checkpoint does not say what net it is of: it is an older one")
    said = NetState.model_validate(state["net"])
    if said.code is not None:
        use_code(said.code, storage_url)
    net = _built(said)
    net.load_state_dict(weights)
    net.eval()
    example_BX = torch.zeros(EXAMPLE_BATCH, *said.shape)
    program = torch.export.export(
        net, (example_BX,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    with out.open("wb") as stream:
        torch.export.save(program, stream)


def _built(said: NetState) -> Layered:
    model: ModelSpec = TypeAdapter(ModelSpec).validate_python(said.model)
    return build_net(model, said.shape, said.num_classes, seeded(0))
