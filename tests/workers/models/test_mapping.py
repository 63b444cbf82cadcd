"""Published weights under our names: every name, every shape, and the same logits from them."""

import hashlib
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from tests.workers.models import published
from workers.contract.model_spec import ModelSpec
from workers.contract.outcome import ConfigFailure
from workers.models.catalog import build_net
from workers.models.layered import Layered, seeded
from workers.models.mapping import HEAD, published_names, to_ours

NET: TypeAdapter[ModelSpec] = TypeAdapter(ModelSpec)
RELATIVE_DIFFERENCE_MAX = 1e-4

# SHA-256 of the lines `name (shape)`, sorted by name, of torchvision 0.29.2's nets of 1000 classes.
PUBLISHED = [
    (
        {"kind": "resnet", "depth": 18},
        122,
        "46bd7814ec81a02c3390911e5bf458e1d17c66184eb4b03cbe48c4bcad77cb0a",
    ),
    (
        {"kind": "resnet", "depth": 34},
        218,
        "31dac9343b6dc33cf9aa018bf2a000a8a80eff71028697b4aa264f9cb0bb9651",
    ),
    (
        {"kind": "resnet", "depth": 50},
        320,
        "eeb21a877a7592d7be6e7582411ee9a8144d8890f0cd3384a82ab4fa798e7b92",
    ),
    (
        {"kind": "resnet", "depth": 101},
        626,
        "13188e030a74089b41c0730a007c88a9f77fc8531084ad3bb287c38d518cf304",
    ),
    (
        {"kind": "resnet", "depth": 152},
        932,
        "0dcb7c814afa5598d9404b0338424dac00ab7dada422eb9e230f8cf487674c02",
    ),
    (
        {"kind": "inception_v3"},
        580,
        "92e5a3c143d110052b18aee279673192da2630f7cbdb871978edca4b141ecaf5",
    ),
]

RESNET_50 = {"kind": "resnet", "depth": 50}
SMALLEST = {"kind": "resnet", "depth": 18}
IMAGE = (3, 299, 299)


def net_of(model: dict[str, Any], num_classes: int = 10) -> Layered:
    return build_net(NET.validate_python(model), IMAGE, num_classes, seeded(0)).eval()


def drawn_state(model: dict[str, Any], own: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Other weights and running figures than ours, by published names, none of them 0 or 1."""
    draw = seeded(seed)
    state = {}
    for name, ours in published_names(NET.validate_python(model)).items():
        tensor = own[ours]
        if name.endswith("num_batches_tracked"):
            state[name] = tensor + 7
        elif name.endswith("running_var"):
            state[name] = torch.empty_like(tensor).uniform_(0.5, 2.0, generator=draw)
        elif tensor.dim() == 1:
            state[name] = tensor + 0.2 * torch.randn(tensor.shape, generator=draw)
        else:
            fan_in = tensor[0].numel()
            state[name] = torch.randn(tensor.shape, generator=draw) * (2.0 / fan_in) ** 0.5
    return state


def relative_difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("model", "num_tensors", "sha256"), PUBLISHED)
def test_every_published_name_and_shape_has_one_of_ours(
    model: dict[str, Any], num_tensors: int, sha256: str
) -> None:
    own = net_of(model, num_classes=1000).state_dict()
    names = published_names(NET.validate_python(model))
    assert len(names) == num_tensors
    assert sorted(names.values()) == sorted(own)
    lines = "".join(f"{name} {tuple(own[names[name]].shape)}\n" for name in sorted(names))
    assert hashlib.sha256(lines.encode()).hexdigest() == sha256


@pytest.mark.parametrize("model", [SMALLEST, RESNET_50], ids=["18", "50"])
def test_a_resnet_gives_the_logits_of_the_published_one(model: dict[str, Any]) -> None:
    net = net_of(model)
    state = drawn_state(model, net.state_dict(), seed=1)
    net.load_state_dict(to_ours(NET.validate_python(model), state, net.state_dict()).weights)
    x = torch.randn(2, 3, 64, 64, generator=seeded(2))
    with torch.no_grad():
        found, expected = net(x), published.resnet(state, x)
    assert expected.std(0).min() > 0.0
    assert relative_difference(found, expected) <= RELATIVE_DIFFERENCE_MAX


def test_inception_gives_the_logits_of_the_published_one_from_both_heads() -> None:
    model = {"kind": "inception_v3"}
    net = net_of(model)
    state = drawn_state(model, net.state_dict(), seed=1)
    net.load_state_dict(to_ours(NET.validate_python(model), state, net.state_dict()).weights)
    x = torch.randn(2, *IMAGE, generator=seeded(2))
    with torch.no_grad():
        found, expected = net.all_logits(x), published.inception_v3(state, x)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_difference(ours, theirs) <= RELATIVE_DIFFERENCE_MAX


def test_a_head_of_other_classes_is_left_out_and_so_are_counts_that_old_files_lack() -> None:
    own = net_of(SMALLEST, num_classes=3).state_dict()
    state = drawn_state(SMALLEST, net_of(SMALLEST, num_classes=5).state_dict(), seed=1)
    state = {name: one for name, one in state.items() if "num_batches" not in name}
    mapped = to_ours(NET.validate_python(SMALLEST), state, own)
    assert set(mapped.left_out) == set(HEAD.values())
    assert set(mapped.weights) | set(mapped.left_out) == set(own)


def test_inception_without_its_auxiliary_head_takes_files_that_have_it() -> None:
    model = {"kind": "inception_v3"}
    state = drawn_state(model, net_of(model).state_dict(), seed=1)
    without = {**model, "auxiliary": False}
    own = net_of(without).state_dict()
    assert set(to_ours(NET.validate_python(without), state, own).weights) == set(own)


def test_other_weights_are_refused_and_the_first_wrong_name_is_said() -> None:
    model, own = NET.validate_python(SMALLEST), net_of(SMALLEST).state_dict()
    state = drawn_state(SMALLEST, own, seed=1)
    lacking = {name: one for name, one in state.items() if name != "layer2.0.conv1.weight"}
    with pytest.raises(ConfigFailure, match=r"layer2\.0\.conv1\.weight is missing: "):
        to_ours(model, lacking, own)
    with pytest.raises(ConfigFailure, match=r"layer5\.weight is not expected, and 1 more"):
        to_ours(
            model,
            {**state, "layer5.weight": own["head.linear.bias"], "z": own["head.linear.bias"]},
            own,
        )
    with pytest.raises(ConfigFailure, match=r"conv1\.weight has the shape \(64, 1, 7, 7\)"):
        to_ours(model, {**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, own)
    with pytest.raises(ConfigFailure, match=r"fc\.weight has the shape \(10, 9\)"):
        to_ours(model, {**state, "fc.weight": torch.zeros(10, 9)}, own)
    with pytest.raises(ConfigFailure, match=r"fc\.weight and fc\.bias are of different"):
        to_ours(model, {**state, "fc.bias": torch.zeros(9)}, own)
    with pytest.raises(ConfigFailure, match=r"conv1\.weight holds torch\.int8"):
        to_ours(model, {**state, "conv1.weight": state["conv1.weight"].to(torch.int8)}, own)


def test_half_as_precise_weights_are_taken_as_ours_are() -> None:
    model, own = NET.validate_python(SMALLEST), net_of(SMALLEST).state_dict()
    state = drawn_state(SMALLEST, own, seed=1)
    halved = {n: one.half() if one.is_floating_point() else one for n, one in state.items()}
    found = to_ours(model, halved, own).weights
    assert {name: one.dtype for name, one in found.items()} == {
        name: one.dtype for name, one in own.items()
    }
    torch.testing.assert_close(
        found["layers.stem.first.conv.weight"], halved["conv1.weight"].float()
    )


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "mlp", "hidden": [8]},
        {"kind": "resnet", "depth": 20},
        {"kind": "resnet", "depth": 50, "width": 32},
    ],
    ids=str,
)
def test_nets_that_were_never_published_are_refused(model: dict[str, Any]) -> None:
    with pytest.raises(ConfigFailure, match="no published names"):
        published_names(NET.validate_python(model))
