"""Every kind of net: its parameters and shapes as published, and that it learns anything at all."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from workers.contract.model_spec import CIFAR_DEPTHS, ModelSpec
from workers.contract.outcome import ConfigFailure
from workers.models.catalog import build_net
from workers.models.layered import Layered, seeded
from workers.stages.finetune import Finetune

NET: TypeAdapter[ModelSpec] = TypeAdapter(ModelSpec)
IMAGE, SMALL = (3, 299, 299), (1, 8, 8)


def spec(**model: Any) -> ModelSpec:
    return NET.validate_python(model)


def net_of(shape: tuple[int, ...], num_classes: int = 10, **model: Any) -> Layered:
    return build_net(spec(**model), shape, num_classes, seeded(0))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("depth", "published"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_a_resnet_has_the_published_number_of_parameters(depth: int, published: int) -> None:
    net = net_of((3, 224, 224), 1000, kind="resnet", depth=depth)
    assert num_parameters(net) == published
    assert len(net.names) == spec(kind="resnet", depth=depth).num_layers
    assert net.names[:2] == ("stem", "block-01")


SMALL_RESNETS = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85", 110: "1.7"}
"""Millions of parameters, as published (He et al., 2015, table 6); there the skips have none."""


def test_small_resnets_have_as_many_layers_and_parameters_as_published() -> None:
    assert tuple(SMALL_RESNETS) == CIFAR_DEPTHS
    for depth, millions in SMALL_RESNETS.items():
        net = net_of((3, 32, 32), kind="resnet", depth=depth)
        skips = [name for name, _ in net.named_parameters() if ".skip." in name]
        assert len(skips) == 2 * 3  # where the channels double: a convolution, its gain and bias
        in_skips = sum(net.get_parameter(name).numel() for name in skips)
        published = float(millions) * 1e6
        assert num_parameters(net) - in_skips == pytest.approx(published, rel=0.02)
        convolutions = [one for one in net.modules() if isinstance(one, nn.Conv2d)]
        assert len([one for one in convolutions if one.kernel_size == (3, 3)]) == depth - 1
        assert len(net.names) == spec(kind="resnet", depth=depth).num_layers


def test_a_resnets_groups_halve_the_image_and_double_the_channels() -> None:
    net, h = net_of((3, 64, 64), kind="resnet", depth=18).eval(), torch.zeros(1, 3, 64, 64)
    shapes = []
    for layer in net.layers.values():
        h = layer(h)
        shapes.append(tuple(h.shape[1:]))
    assert shapes[::2] == [(64, 16, 16), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]


BLOCKS = {
    "mixed-5b": (255_904, (256, 35, 35)),
    "mixed-5c": (277_472, (288, 35, 35)),
    "mixed-5d": (285_152, (288, 35, 35)),
    "mixed-6a": (1_153_280, (768, 17, 17)),
    "mixed-6b": (1_297_408, (768, 17, 17)),
    "mixed-6c": (1_691_008, (768, 17, 17)),
    "mixed-6d": (1_691_008, (768, 17, 17)),
    "mixed-6e": (2_141_952, (768, 17, 17)),
    "mixed-7a": (1_698_304, (1280, 8, 8)),
    "mixed-7b": (5_044_608, (2048, 8, 8)),
    "mixed-7c": (6_076_800, (2048, 8, 8)),
}
BEFORE = {
    "conv-1a": (32, 149, 149),
    "conv-2a": (32, 147, 147),
    "conv-2b": (64, 147, 147),
    "pool-3a": (64, 73, 73),
    "conv-3b": (80, 73, 73),
    "conv-4a": (192, 71, 71),
    "pool-5a": (192, 35, 35),
}


def test_inception_has_the_published_parameters_and_shapes() -> None:
    net = net_of(IMAGE, 1000, kind="inception_v3").eval()
    assert net.auxiliary is not None
    assert num_parameters(net) == 27_161_264
    assert num_parameters(net) - num_parameters(net.auxiliary) == 23_834_568
    assert (num_parameters(net.head), num_parameters(net.auxiliary)) == (2_049_000, 3_326_696)
    assert len(net.names) == spec(kind="inception_v3").num_layers
    found: dict[str, tuple[int, ...]] = {}
    with torch.no_grad():
        h = torch.zeros(1, *IMAGE)
        for name, layer in net.layers.items():
            h = layer(h)
            found[name] = tuple(h.shape[1:])
    assert found == BEFORE | {name: shape for name, (_, shape) in BLOCKS.items()}
    for name, (count, _) in BLOCKS.items():
        assert num_parameters(net.layers[name]) == count, name


def test_the_auxiliary_head_adds_its_share_to_the_loss_and_is_not_asked_otherwise() -> None:
    net = net_of((3, 75, 75), kind="inception_v3", dropout=0.0).eval()
    x, y = torch.randn(2, 3, 75, 75), torch.tensor([1, 2])
    with torch.no_grad():
        main, auxiliary = net.all_logits(x)
        torch.testing.assert_close(net(x), main)
        loss = nn.functional.cross_entropy
        expected = loss(main, y) + 0.3 * loss(auxiliary, y)
        torch.testing.assert_close(Finetune(net).loss(x, y), expected)


@pytest.mark.parametrize(
    ("shape", "model"),
    [
        (SMALL, {"kind": "resnet", "depth": 20, "width": 4}),
        (SMALL, {"kind": "resnet", "depth": 18, "width": 8}),
        (SMALL, {"kind": "transformer", "layers": 2, "width": 32}),
        ((12, 5), {"kind": "transformer", "layers": 2, "width": 32, "dropout": 0.1}),
        ((64,), {"kind": "mlp", "hidden": [32] * 3}),
    ],
    ids=str,
)
def test_a_net_learns_a_batch_by_heart_and_every_parameter_has_its_part(
    shape: tuple[int, ...], model: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    net = net_of(shape, 4, **model)
    x, y = torch.randn(8, *shape), torch.arange(8) % 4
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    first = float(Finetune(net).loss(x, y).detach())
    for step in range(30):
        optimizer.zero_grad()
        loss = Finetune(net).loss(x, y)
        loss.backward()  # type: ignore[no-untyped-call]
        if step == 0:
            assert all(one.grad is not None for one in net.parameters())
        optimizer.step()
    assert float(loss.detach()) < 0.3 * first


def test_initial_values_come_of_the_seed_alone() -> None:
    for model in ({"kind": "resnet", "depth": 20}, {"kind": "transformer"}):
        torch.manual_seed(1)
        one = net_of(SMALL, **model).state_dict()
        torch.manual_seed(2)
        other = net_of(SMALL, **model).state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_attention_agrees_with_torchs_own_layer() -> None:
    net = net_of((6, 5), kind="transformer", layers=1, width=16, heads=2).eval()
    block = net.layers["block-01"]
    reference = nn.TransformerEncoderLayer(
        16, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    ours = dict(block.named_parameters())
    names = {
        "self_attn.in_proj_": "projections.",
        "self_attn.out_proj.": "joined.",
        "linear1.": "inner.",
        "linear2.": "outer.",
        "norm1.": "norm_1.",
        "norm2.": "norm_2.",
    }
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            prefix = next(one for one in names if name.startswith(one))
            parameter.copy_(ours[names[prefix] + name.removeprefix(prefix)])
        x = torch.randn(3, 6, 16)
        torch.testing.assert_close(block(x), reference(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "model", "said"),
    [
        ((64,), {"kind": "resnet", "depth": 20}, "takes images"),
        ((3, 32, 32), {"kind": "inception_v3"}, "75 x 75 pixels or more"),
        (SMALL, {"kind": "transformer", "patch": 3}, "patches of 3 x 3"),
        ((64,), {"kind": "transformer"}, r"sequences \(T, F\)"),
    ],
)
def test_samples_that_a_net_does_not_take_are_refused(
    shape: tuple[int, ...], model: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigFailure, match=said):
        net_of(shape, **model)


MODULE = """
from torch import nn

def build(shape, num_classes, generator, width=8):
    layers = [("wide", nn.Linear(shape[0], width)), ("bent", nn.Tanh())]
    return layers, nn.Linear(width, num_classes)

def nothing(shape, num_classes, generator):
    return None

def no_head(shape, num_classes, generator):
    return [("a", nn.Linear(1, 1))], "head"

def named(shape, num_classes, generator, names):
    return [(name, nn.Linear(1, 1)) for name in names], nn.Linear(1, 1)

number = 3
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "users_nets", raising=False)


@pytest.mark.usefixtures("users_module")
def test_a_users_callable_gives_layers_and_a_head_alike_on_every_rank() -> None:
    model = {"kind": "custom", "import": "users_nets:build", "options": {"width": 5}}
    nets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        nets.append(net_of((4,), 3, **model))
    assert nets[0].names == ("wide", "bent")
    assert nets[0](torch.randn(2, 4)).shape == (2, 3)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)
    again = NET.validate_json(NET.dump_json(spec(**model)))
    assert again == spec(**model)


@pytest.mark.usefixtures("users_module")
@pytest.mark.parametrize(
    ("entry", "options", "said"),
    [
        ("nowhere:build", {}, "can't be imported"),
        ("users_nets:missing", {}, "can't be imported"),
        ("users_nets:number", {}, "is no callable"),
        ("users_nets:nothing", {}, r"must return \(layers, head\)"),
        ("users_nets:no_head", {}, r"must return \(layers, head\)"),
        ("users_nets:build", {"depth": 3}, "can't be called with"),
        ("users_nets:named", {"names": ["a", "b", "a"]}, "gives 'a' to more than one layer"),
        ("users_nets:named", {"names": ["block.1"]}, "names a layer as none can be"),
        ("users_nets:named", {"names": ["keys"]}, "names a layer as none can be"),
        ("users_nets:named", {"names": []}, r"must return \(layers, head\)"),
    ],
)
def test_a_users_callable_that_gives_something_else_is_refused(
    entry: str, options: dict[str, Any], said: str
) -> None:
    custom = NET.validate_python({"kind": "custom", "options": options, "import": entry})
    with pytest.raises(ConfigFailure, match=said):
        build_net(custom, (4,), 3, seeded(0))


@pytest.mark.parametrize("entry", ["build", "a.b", "a:b:c", "a b:c", ":f", ""])
def test_an_entry_that_names_no_callable_is_refused_when_it_is_written(entry: str) -> None:
    with pytest.raises(ValidationError):
        spec(kind="custom", **{"import": entry})


def test_heads_must_share_the_width() -> None:
    with pytest.raises(ValidationError, match="3 heads can't share a width of 64"):
        spec(kind="transformer", heads=3)
