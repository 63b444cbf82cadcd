"""What the layers look like from inside, and what is said of it in words."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.contract.model_spec import MlpModel
from workers.models.catalog import build_net
from workers.models.layered import Layer, Layered, seeded
from workers.parallel.mesh import Seat
from workers.stages.finetune import Finetune
from workers.telemetry.diagnostics import Diagnostics

WIDTH, NUM_CLASSES = 32, 4
ALONE = Seat(0, 1, torch.device("cpu"))


def net_of(**model: Any) -> Layered:
    spec = MlpModel(kind="mlp", **{"hidden": (WIDTH,) * 4, **model})
    return build_net(spec, (WIDTH,), NUM_CLASSES, seeded(0))


class Pool(Layer):
    """A layer without weights."""


def diagnostics_of(net: Layered) -> Diagnostics:
    diagnostics = Diagnostics.of(net, ALONE)
    assert diagnostics is not None
    return diagnostics


def look_at(net: Layered, x_BV: Tensor) -> tuple[dict[str, float], list[str]]:
    diagnostics = diagnostics_of(net)
    objective = Finetune(net)
    with diagnostics.looking() as look:
        labels = torch.arange(len(x_BV)) % NUM_CLASSES
        torch.autograd.backward(objective(x_BV, labels))
    metrics = diagnostics.metrics(look)
    return metrics, [noticed.code for noticed in diagnostics.verdicts(metrics)]


def weight_of(net: Layered, name: str) -> nn.Parameter:
    return dict(net.named_parameters())[f"layers.{name}.linear.weight"]


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


def test_the_figures_are_those_of_the_formulas(x: Tensor) -> None:
    net, rate, scale = net_of(activation="tanh", init="xavier"), 0.1, torch.tensor(1024.0)
    diagnostics, objective = diagnostics_of(net), Finetune(net)
    with diagnostics.looking(scale) as look:
        torch.autograd.backward(objective(x, torch.arange(len(x)) % NUM_CLASSES) * scale)
    gradients = {
        name: one.grad / scale for name, one in net.named_parameters() if one.grad is not None
    }
    weight = weight_of(net, "hidden-02").detach().clone()
    gradient = gradients["layers.hidden-02.linear.weight"]
    code_BH = net.layer(1)(net.layer(0)(x)).detach()
    with torch.no_grad():
        for name, one in net.named_parameters():
            one.sub_(gradients[name], alpha=rate)
    metrics = diagnostics.metrics(look)
    expected = {
        "grad_norm.hidden-02": gradient.norm(),
        "weight_norm.hidden-02": weight.norm(),
        "update_ratio.hidden-02": rate * gradient.norm() / weight.norm(),
        "code_mean.hidden-02": code_BH.mean(),
        "code_sd.hidden-02": code_BH.std(0, correction=0).mean(),
        "grad_norm": torch.cat([one.flatten() for one in gradients.values()]).norm(),
    }
    found = {name: metrics[name] for name in expected}
    assert found == pytest.approx({name: float(one) for name, one in expected.items()}, rel=1e-4)


def test_a_deep_sigmoid_net_from_the_old_initialisation_vanishes(x: Tensor) -> None:
    net = net_of(activation="sigmoid", init="lecun_uniform", hidden=(WIDTH,) * 10)
    _, said = look_at(net, x)
    assert said == ["vanishing_gradient"]


def test_a_gradient_that_grows_on_its_way_down_explodes() -> None:
    net = net_of()
    diagnostics = diagnostics_of(net)
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
    [noticed] = diagnostics_of(net).verdicts(metrics)
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


def test_where_there_is_nothing_to_see_nobody_looks() -> None:
    assert Diagnostics.of(Layered([Pool()], nn.Linear(1, NUM_CLASSES)), ALONE) is None
    assert Diagnostics.of(net_of(), Seat(1, 2, torch.device("cpu"))) is None
