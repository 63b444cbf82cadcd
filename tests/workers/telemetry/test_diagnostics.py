"""What the layers look like from inside, and what is said of it in words."""

from typing import Any

import pytest
import torch
from torch import Tensor

from workers.contract.model_spec import MlpModel
from workers.models.catalog import build_net
from workers.models.layered import Layered, seeded
from workers.stages.finetune import Finetune
from workers.telemetry.diagnostics import Diagnostics

WIDTH, NUM_CLASSES = 32, 4


def net_of(**model: Any) -> Layered:
    spec = MlpModel(kind="mlp", **{"hidden": (WIDTH,) * 4, **model})
    return build_net(spec, (WIDTH,), NUM_CLASSES, seeded(0))


def look_at(net: Layered, x_BV: Tensor) -> tuple[dict[str, float], list[str]]:
    diagnostics = Diagnostics(net)
    objective = Finetune(net)
    with diagnostics.looking() as look:
        labels = torch.arange(len(x_BV)) % NUM_CLASSES
        torch.autograd.backward(objective(x_BV, labels))
    metrics = diagnostics.metrics(look)
    return metrics, [noticed.code for noticed in diagnostics.verdicts(metrics)]


def bias_of(net: Layered, name: str) -> Tensor:
    return dict(net.named_parameters())[f"layers.{name}.linear.bias"]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(100, WIDTH, generator=seeded(1))


def test_a_well_initialised_net_is_not_complained_of(x: Tensor) -> None:
    metrics, said = look_at(net_of(activation="relu", init="he"), x)
    assert said == []
    assert metrics["dead.hidden-01"] < 0.2
    assert 0.01 < metrics["gradient_decay"] < 100


def test_a_deep_sigmoid_net_from_the_old_initialisation_vanishes(x: Tensor) -> None:
    net = net_of(activation="sigmoid", init="lecun_uniform", hidden=(WIDTH,) * 10)
    _, said = look_at(net, x)
    assert said == ["vanishing_gradient"]


def test_a_gradient_that_grows_on_its_way_down_explodes() -> None:
    net = net_of()
    diagnostics = Diagnostics(net)
    [noticed] = diagnostics.verdicts({"gradient_decay": 2e4})
    assert noticed.code == "exploding_gradient"
    assert "hidden-01 is 2e+04 times larger than that of hidden-04" in noticed.sentence
    assert diagnostics.verdicts({"gradient_decay": 90.0}) == []


def test_a_layer_of_which_most_units_are_dead_is_named(x: Tensor) -> None:
    net = net_of(activation="relu", init="he")
    with torch.no_grad():
        bias_of(net, "hidden-02")[: WIDTH * 3 // 4] = -1e3
    metrics, said = look_at(net, x)
    assert metrics["dead.hidden-02"] >= 0.75
    assert said == ["dead_units"]
    [noticed] = Diagnostics(net).verdicts(metrics)
    assert "of hidden-02 are 0" in noticed.sentence


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_a_layer_whose_outputs_lie_at_their_ends_is_named(x: Tensor, activation: str) -> None:
    net = net_of(activation=activation, init="xavier")
    with torch.no_grad():
        bias_of(net, "hidden-03").fill_(50.0)
    metrics, said = look_at(net, x)
    assert metrics["saturation.hidden-03"] == 1.0
    assert "saturated_units" in said


def test_a_residual_net_is_not_asked_for_ends_that_it_has_not(x: Tensor) -> None:
    metrics, _ = look_at(net_of(activation="relu", residual=True), x)
    assert not [name for name in metrics if name.startswith(("dead.", "saturation."))]
    assert "code_sd.hidden-01" in metrics
