"""The nets that a recipe's `model` describes."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from workers.contract.model_spec import MlpModel
from workers.models.layered import Layered, seeded
from workers.models.mlp import DenseLayer, build_mlp


def _net(hidden: list[int], seed: int = 0, **options: Any) -> Layered:
    model = MlpModel.model_validate({"kind": "mlp", "hidden": hidden, **options})
    return build_mlp(model, 20, 3, seeded(seed))


def test_layers_have_names_in_order_and_the_head_gives_a_logit_per_class() -> None:
    net = _net([8, 7, 6])
    assert net.names == ("hidden-01", "hidden-02", "hidden-03")
    assert [net.layer(k).num_outputs for k in range(3)] == [8, 7, 6]
    assert net(torch.rand(5, 20)).shape == (5, 3)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "gelu"])
def test_a_layer_does_what_its_parts_do_by_hand(activation: str) -> None:
    layer = _net([8], activation=activation).layer(0)
    assert isinstance(layer, DenseLayer)
    x = torch.randn(4, 20)
    by_hand = getattr(nn.functional, activation)(x @ layer.linear.weight.T + layer.linear.bias)
    torch.testing.assert_close(layer(x), by_hand)


@pytest.mark.parametrize(
    ("init", "gain", "sd"),
    [
        ("lecun_uniform", 1.0, 1.0 / math.sqrt(3 * 400)),
        ("xavier", 4.0, 4.0 * math.sqrt(2.0 / (400 + 300))),
        ("he", 1.0, math.sqrt(2.0 / 400)),
    ],
)
def test_weights_have_the_spread_of_their_rule_and_biases_are_zero(
    init: str, gain: float, sd: float
) -> None:
    net = _net([400, 300], init=init, gain=gain)
    linear = net.layers["hidden-02"].linear
    assert isinstance(linear, nn.Linear)
    assert float(linear.weight.detach().std()) == pytest.approx(sd, rel=0.02)
    assert not linear.bias.any()
    head = net.head
    assert isinstance(head, nn.Linear)
    assert float(head.weight.detach().std()) > 0.0  # a zero head would give zero gradients below it


def test_the_seed_decides_every_weight() -> None:
    first, same, other = _net([8, 8], seed=1), _net([8, 8], seed=1), _net([8, 8], seed=2)
    pairs = zip(first.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_a_residual_net_has_a_linear_layer_and_blocks_of_two() -> None:
    net = _net([16] * 16, residual=True, normalization="batch")
    hidden = [module for module in net.layers.modules() if isinstance(module, nn.Linear)]
    assert len(hidden) == 31
    x = torch.randn(4, 16)
    block = net.layer(5)
    with torch.no_grad():
        for linear in (m for m in block.modules() if isinstance(m, nn.Linear)):
            linear.weight.zero_()
    assert torch.equal(block(x), x)  # without its branch a block hands through what it gets


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "gelu"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_a_residual_net_does_what_its_parts_do_by_hand(activation: str, norm: str) -> None:
    """Pre-activation: norm, activation and linear twice in a block, and once in the head."""
    net = _net([6, 6, 4], residual=True, normalization=norm, activation=activation, init="xavier")
    act = getattr(nn.functional, activation)

    def normed(h: torch.Tensor) -> torch.Tensor:
        """Fresh normalizations have gain 1 and shift 0."""
        if norm == "none":
            return h
        over = 0 if norm == "batch" else 1
        variance, mean = torch.var_mean(h, over, correction=0, keepdim=True)
        return (h - mean) / (variance + 1e-5).sqrt()

    named = dict(net.named_parameters())

    def linear(name: str, h: torch.Tensor) -> torch.Tensor:
        return h @ named[f"{name}.weight"].T + named[f"{name}.bias"]

    x = torch.randn(9, 20, generator=seeded(1))
    h = linear("layers.hidden-01.linear", x)
    for block in ("layers.hidden-02", "layers.hidden-03"):
        inner = linear(f"{block}.linear_1", act(normed(h)))
        skipped = linear(f"{block}.skip", h) if block.endswith("03") else h  # 6 -> 4 units
        h = skipped + linear(f"{block}.linear_2", act(normed(inner)))
    by_hand = linear("head.1", act(normed(h)))
    torch.testing.assert_close(net(x), by_hand, rtol=1e-4, atol=1e-5)


def test_a_block_that_changes_the_width_projects_its_skip() -> None:
    assert _net([16, 12], residual=True)(torch.rand(5, 20)).shape == (5, 3)


def test_a_deep_residual_net_keeps_its_size() -> None:
    net = _net([16] * 100, residual=True)
    assert float(net(torch.randn(32, 20)).detach().abs().max()) < 1e3


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_normalization_stands_before_the_activation(normalization: str) -> None:
    layer = _net([50], normalization=normalization, activation="tanh").layer(0)
    code = layer(5.0 + 100.0 * torch.rand(64, 20))
    assert 0.5 < float(code.detach().std()) < 0.8  # of tanh(N(0, 1)): 0.63


def test_dropout_acts_in_training_only() -> None:
    layer = _net([1000], dropout=0.5, activation="sigmoid").layer(0)
    x = torch.randn(2, 20)
    assert 0.4 < float((layer(x) == 0).float().mean()) < 0.6
    assert float((layer.eval()(x) == 0).float().mean()) == 0.0
