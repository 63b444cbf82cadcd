"""Greedy supervised stages: which head each kind of layer gets, and what trains under it."""

import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.contract.model_spec import MlpModel
from workers.contract.outcome import ConfigFailure
from workers.contract.pretraining_spec import GreedySupervised
from workers.contract.recipe import Recipe
from workers.data.part import InMemory
from workers.models.catalog import build_net
from workers.models.layered import Layered, seeded
from workers.models.mlp import DenseLayer
from workers.stages.catalog import build_objective, plan_stages
from workers.stages.greedy import Greedy, build_auxiliary_head
from workers.stages.handover import Inputs

N, K = 12, 3
METHOD = GreedySupervised(method="greedy_supervised")
IMAGE, SEQUENCE, VECTOR = (1, 8, 8), (5, 6), (7,)
CUSTOM = {"kind": "custom", "import": "nets_of_a_test:build"}


@pytest.fixture
def custom_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module: a layer with dropout, one without weights, one that gives single numbers."""

    def build(*_: object) -> tuple[list[tuple[str, nn.Module]], nn.Module]:
        first = nn.Sequential(nn.Linear(7, 5), nn.Dropout(0.5))
        return [("first", first), ("relu", nn.ReLU()), ("flat", _Single())], nn.Linear(1, K)

    module = types.ModuleType("nets_of_a_test")
    module.build = build  # type: ignore[attr-defined]  # modules take any attribute
    monkeypatch.setitem(sys.modules, module.__name__, module)


class _Single(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


def _part(shape: tuple[int, ...]) -> InMemory:
    return InMemory(torch.rand(N, *shape, generator=seeded(3)), torch.arange(N) % K)


def _stage(
    model: dict[str, Any], shape: tuple[int, ...], layer: int, **options: Any
) -> tuple[Greedy, Inputs, Layered]:
    """The stage of a layer, its inputs, and the net as it was built."""
    pretraining = {"method": "greedy_supervised", "batch_size": N, **options}
    recipe = Recipe.model_validate(
        {"data": {"source": "digits"}, "model": model, "pretraining": pretraining}
        | {"training": {"batch_size": N}}
    )
    net = build_net(recipe.model, shape, K, seeded(0))
    plan = plan_stages(recipe, N, N, world_size=1)[layer]
    inputs = Inputs(_part(shape))
    for below in range(layer):
        inputs = inputs.above(net.layer(below), "memory")
    stage = build_objective(plan, recipe, net, K, inputs)
    assert isinstance(stage, Greedy)
    return stage, inputs, net


def test_a_layer_learns_labels_under_a_head_that_is_not_the_nets() -> None:
    model = MlpModel(kind="mlp", hidden=(5,), activation="sigmoid", init="xavier")
    layer = DenseLayer(model, 7, 5, seeded(0))
    head = build_auxiliary_head(METHOD, model, (5,), K, seeded(0))
    assert isinstance(head, nn.Linear)
    stage, x, labels = Greedy([layer], [head]), torch.rand(11, 7), torch.zeros(11).long()
    logits = layer(x) @ head.weight.T + head.bias
    torch.testing.assert_close(stage.loss(x, labels), nn.functional.cross_entropy(logits, labels))
    assert set(stage.own_tensors()) == {"0.weight", "0.bias"}


@pytest.mark.usefixtures("custom_nets")
@pytest.mark.parametrize(
    ("model", "shape", "layer"),
    [
        ({"kind": "mlp", "hidden": [5, 4], "normalization": "batch"}, VECTOR, 1),
        ({"kind": "resnet", "depth": 20, "width": 4}, IMAGE, 0),
        ({"kind": "resnet", "depth": 20, "width": 4}, IMAGE, 4),
        ({"kind": "resnet", "depth": 50, "width": 4}, (3, 16, 16), 1),
        ({"kind": "transformer", "width": 8, "heads": 2, "layers": 1}, IMAGE, 0),
        ({"kind": "transformer", "width": 8, "heads": 2, "layers": 1}, SEQUENCE, 1),
        (CUSTOM, VECTOR, 0),
    ],
)
def test_every_net_has_layers_that_learn_alone(
    model: dict[str, Any], shape: tuple[int, ...], layer: int
) -> None:
    stage, inputs, net = _stage(model, shape, layer, layers=layer + 1)
    assert list(stage.layers) == [net.layer(layer)]
    x, labels = inputs.rows(torch.arange(N), 0), torch.arange(N) % K
    stage.train()
    torch.autograd.backward(stage.loss(x, labels))
    assert all(one.grad is not None for one in stage.parameters())
    others = [one for k, one in enumerate(net.layers.values()) if k != layer]
    assert not [one for part in others for one in part.parameters() if one.grad is not None]
    assert next(net.head.parameters()).grad is None


@pytest.mark.parametrize(
    ("shape", "dimensions"), [((4, 3, 2), (2, 3)), ((5, 4), (1,)), ((4, 2, 2, 2), (2, 3, 4))]
)
def test_the_head_sees_the_mean_over_all_that_is_no_unit(
    shape: tuple[int, ...], dimensions: tuple[int, ...]
) -> None:
    recipe = Recipe.model_validate(
        {"data": {"source": "digits"}, "model": {"kind": "resnet", "depth": 20}}
    )
    head = build_auxiliary_head(METHOD, recipe.model, shape, K, seeded(0))
    assert isinstance(head, nn.Sequential)
    code = torch.rand(6, *shape)
    torch.testing.assert_close(head(code), head[-1](code.mean(dimensions)))
    assert head(code).shape == (6, K)


def test_a_deeper_head_has_hidden_layers_of_its_width() -> None:
    model = {"kind": "resnet", "depth": 20, "width": 4}
    stage, inputs, _ = _stage(model, IMAGE, 0, aux_head_depth=3, aux_head_width=9)
    shapes = [tuple(tensor.shape) for tensor in stage.own_tensors().values()]
    assert shapes == [(9, 4), (9,), (9, 9), (9,), (K, 9), (K,)]
    assert stage.heads[0](stage.layers[0](inputs.rows(torch.arange(N), 0))).shape == (N, K)


def test_layers_that_train_at_once_each_learn_as_they_would_alone() -> None:
    """On the codes of that moment: each gets the gradient of its own head's loss, and no other."""
    model = {"kind": "resnet", "depth": 20, "width": 4}
    stage, inputs, net = _stage(model, IMAGE, 0, layers=3, parallel=True)
    assert list(stage.layers) == [net.layer(k) for k in range(3)]
    x, labels = inputs.rows(torch.arange(N), 0), torch.arange(N) % K
    stage.train()
    together = stage.loss(x, labels)
    torch.autograd.backward(together)
    found = {name: one.grad for name, one in stage.named_parameters()}
    losses = []
    for k in range(3):
        layer, head = stage.layers[k], stage.heads[k]
        stage.zero_grad()
        loss = nn.functional.cross_entropy(head(layer(x)), labels)
        torch.autograd.backward(loss)
        alone = {name: one.grad for name, one in stage.named_parameters() if one.grad is not None}
        assert {name.split(".")[1] for name in alone} == {str(k)}
        for name, gradient in alone.items():
            torch.testing.assert_close(found[name], gradient)
        losses.append(loss.detach())
        x = layer(x).detach()
    torch.testing.assert_close(together.detach(), sum(losses))


def test_layers_that_train_at_once_are_one_stage() -> None:
    recipe = Recipe.model_validate(
        {
            "data": {"source": "digits"},
            "model": {"kind": "resnet", "depth": 20},
            "pretraining": {"method": "greedy_supervised", "layers": 3, "parallel": True},
        }
    )
    plans = plan_stages(recipe, 1437, 1437, world_size=2)
    assert [(plan.name, plan.layers) for plan in plans] == [
        ("pretrain", (0, 1, 2)),
        ("finetune", ()),
    ]
    assert plans[1].first_step == plans[0].steps == 40 * 14


def test_building_a_stage_leaves_the_running_statistics_alone() -> None:
    model = {"kind": "resnet", "depth": 20, "width": 4}
    _, _, net = _stage(model, IMAGE, 2)
    assert all(int(one) == 0 for name, one in net.named_buffers() if "num_batches" in name)


@pytest.mark.usefixtures("custom_nets")
def test_a_custom_net_with_fewer_layers_is_refused_when_its_first_stage_begins() -> None:
    with pytest.raises(ConfigFailure, match=r"pretraining\.layers: asks for 4 .* has 3 of them"):
        _stage(CUSTOM, VECTOR, 0, layers=4)


@pytest.mark.usefixtures("custom_nets")
def test_a_layer_without_weights_still_has_its_stage_but_one_of_single_numbers_has_none() -> None:
    stage, _, _ = _stage(CUSTOM, VECTOR, 1, layers=2)
    assert list(stage.layers.parameters()) == []
    assert stage.own_tensors()["0.weight"].shape == (K, 5)
    with pytest.raises(ConfigFailure, match="a single number"):
        _stage(CUSTOM, VECTOR, 2, layers=3)
