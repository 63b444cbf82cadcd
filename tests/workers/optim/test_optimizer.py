"""Our optimizer steps are those of torch.optim; layers have rates of their own, and means."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.contract.training_spec import (
    Adagrad,
    Adam,
    AdamVariant,
    OptimizerSpec,
    Rmsprop,
    Sgd,
    TrainingSpec,
)
from workers.optim.guard import Guard
from workers.optim.optimizer import Optimizer

MOMENTS: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
RMSPROP: dict[str, Any] = {"alpha": 0.8, "eps": 1e-6, "weight_decay": 0.1}

CASES: dict[str, tuple[OptimizerSpec, type[Any], dict[str, Any]]] = {
    "sgd": (Sgd(name="sgd", lr=0.1), torch.optim.SGD, {"lr": 0.1}),
    "sgd with everything": (
        Sgd(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    ),
    "adam": (
        Adam(name="adam", lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        torch.optim.Adam,
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
    ),
    "adamw": (
        Adam(name="adamw", lr=0.01, weight_decay=0.1),
        torch.optim.AdamW,
        {"lr": 0.01, "weight_decay": 0.1},
    ),
    "adam, amsgrad": (
        Adam(name="adam", lr=0.01, amsgrad=True, weight_decay=0.1),
        torch.optim.Adam,
        {"amsgrad": True, "weight_decay": 0.1},
    ),
    "adamw, amsgrad": (
        Adam(name="adamw", lr=0.01, amsgrad=True, weight_decay=0.1),
        torch.optim.AdamW,
        {"amsgrad": True, "weight_decay": 0.1},
    ),
    "nadam, decoupled": (
        AdamVariant(name="nadam", lr=0.01, decoupled_weight_decay=True, **MOMENTS),
        torch.optim.NAdam,
        {"decoupled_weight_decay": True, **MOMENTS},
    ),
    "radam, decoupled": (
        AdamVariant(name="radam", lr=0.01, decoupled_weight_decay=True, **MOMENTS),
        torch.optim.RAdam,
        {"decoupled_weight_decay": True, **MOMENTS},
    ),
    "nadam": (AdamVariant(name="nadam", lr=0.01, **MOMENTS), torch.optim.NAdam, MOMENTS),
    "radam": (AdamVariant(name="radam", lr=0.01, **MOMENTS), torch.optim.RAdam, MOMENTS),
    "adamax": (AdamVariant(name="adamax", lr=0.01, **MOMENTS), torch.optim.Adamax, MOMENTS),
    "rmsprop": (Rmsprop(name="rmsprop", lr=0.01, **RMSPROP), torch.optim.RMSprop, RMSPROP),
    "rmsprop with everything": (
        Rmsprop(name="rmsprop", lr=0.01, momentum=0.5, centered=True, **RMSPROP),
        torch.optim.RMSprop,
        {"momentum": 0.5, "centered": True, **RMSPROP},
    ),
    "adagrad": (
        Adagrad(name="adagrad", lr=0.01, eps=1e-6, weight_decay=0.1),
        torch.optim.Adagrad,
        {"eps": 1e-6, "weight_decay": 0.1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_ten_steps_lead_to_where_torch_optim_leads(case: str) -> None:
    spec, kind, options = CASES[case]
    start = [torch.randn(4, 3), torch.randn(3)]
    ours = {str(k): nn.Parameter(tensor.clone()) for k, tensor in enumerate(start)}
    theirs = [nn.Parameter(tensor.clone()) for tensor in start]
    optimizer, reference = Optimizer(ours, spec), kind(theirs, **{"lr": spec.lr, **options})
    momentum = spec.momentum if isinstance(spec, Sgd) else 0.0
    for _ in range(10):
        for one, other in zip(ours.values(), theirs, strict=True):
            gradient = torch.randn_like(one)
            one.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step(spec.lr, momentum)
        reference.step()
    for one, other in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("case", CASES)
def test_state_that_is_loaded_in_place_goes_on_with_the_same_bits(case: str) -> None:
    spec, _, _ = CASES[case]
    weights = [{"w": nn.Parameter(torch.ones(3))} for _ in range(2)]
    training = TrainingSpec(ema=0.5, on_non_finite="skip")
    first, second = (Optimizer(one, spec, training) for one in weights)
    gradient = torch.tensor([1.0, -2.0, 3.0])
    weights[0]["w"].grad = gradient
    first.step(0.1, 0.9)
    with torch.no_grad():
        weights[1]["w"].copy_(weights[0]["w"])
    for name, tensors in second.tensors().items():
        for whose, tensor in tensors.items():
            tensor.copy_(first.tensors()[name][whose])
    for one, optimizer in zip(weights, (first, second), strict=True):
        one["w"].grad = gradient
        optimizer.step(0.1, 0.9)
    assert torch.equal(weights[0]["w"], weights[1]["w"])
    with first.averaged(), second.averaged():
        assert torch.equal(weights[0]["w"], weights[1]["w"])


@pytest.mark.parametrize("case", CASES)
def test_a_step_whose_gradient_is_no_number_changes_nothing_but_the_count(case: str) -> None:
    spec, _, _ = CASES[case]
    weights = {"a": nn.Parameter(torch.ones(3)), "b": nn.Parameter(torch.ones(2))}
    optimizer = Optimizer(weights, spec, TrainingSpec(on_non_finite="skip"))
    for parameter in weights.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0.1, 0.9)

    def everything() -> list[Tensor]:
        state = [one for part in optimizer.tensors().values() for one in part.values()]
        own = optimizer.guard.state if optimizer.guard is not None else None
        return [one.clone() for one in [*state, *weights.values()] if one is not own]

    before = everything()
    for bad in (torch.nan, torch.inf):
        weights["b"].grad = torch.tensor([1.0, bad])
        optimizer.step(0.1, 0.9)
    assert all(torch.equal(one, other) for one, other in zip(before, everything(), strict=True))
    assert optimizer.guard is not None
    assert optimizer.guard.counts() == (2, 2)
    weights["b"].grad = torch.ones(2)
    optimizer.step(0.1, 0.9)
    assert optimizer.guard.counts() == (2, 0)
    assert not torch.equal(before[-1], weights["b"])


def test_clipping_is_that_of_torch() -> None:
    ours, theirs = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    gradient = torch.tensor([3.0, -4.0, 12.0, 0.0])
    ours.grad, theirs.grad = gradient.clone(), gradient.clone()
    Optimizer({"w": ours}, Sgd(name="sgd"), TrainingSpec(clip_norm=0.5)).step(1.0, 0.0)
    torch.nn.utils.clip_grad_norm_([theirs], 0.5)
    torch.testing.assert_close(ours.detach(), -theirs.grad, rtol=1e-6, atol=0.0)


def test_a_scaled_gradient_is_scaled_back_before_it_is_clipped() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = Optimizer(
        {"w": weight}, Sgd(name="sgd"), TrainingSpec(precision="fp16", clip_norm=1.0)
    )
    assert optimizer.guard is not None
    weight.grad = torch.tensor([0.3, 0.4]) * optimizer.guard.scale
    optimizer.step(1.0, 0.0)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.3, -0.4]))


def test_the_scale_halves_at_an_overflow_and_doubles_after_many_good_steps() -> None:
    guard = Guard(TrainingSpec(precision="fp16"), torch.device("cpu"))
    good, bad, first = torch.tensor(1.0), torch.tensor(torch.inf), float(guard.scale)
    guard.judge(bad)
    assert float(guard.scale) == first / 2
    for _ in range(1999):
        guard.judge(good)
    assert float(guard.scale) == first / 2
    guard.judge(good)
    assert float(guard.scale) == first
    guard.judge(good)
    guard.judge(bad)
    assert float(guard.scale) == first / 2
    assert guard.counts() == (2, 1)


LAYERS = ("hidden-01", "hidden-02")


def _net() -> dict[str, nn.Parameter]:
    names = (*(f"net.layers.{layer}.linear.weight" for layer in LAYERS), "net.head.weight")
    return {name: nn.Parameter(torch.zeros(1)) for name in names}


def _stepped(weights: dict[str, nn.Parameter], optimizer: Optimizer, epoch: int) -> list[float]:
    """How far each weight of `_net` went at a gradient of 1, from the lowest layer on."""
    before = [weight.item() for weight in weights.values()]
    for weight in weights.values():
        weight.grad = torch.ones(1)
    optimizer.step(1.0, 0.0, 0, epoch)
    return [old - weight.item() for old, weight in zip(before, weights.values(), strict=True)]


def test_the_rate_falls_from_layer_to_layer_down_from_the_head() -> None:
    weights = _net()
    optimizer = Optimizer(weights, Sgd(name="sgd"), TrainingSpec(layer_decay=0.5), LAYERS)
    assert _stepped(weights, optimizer, 0) == [0.25, 0.5, 1.0]
    assert list(optimizer.tensors()["momentum"].keys() ^ weights.keys()) == []


def test_layers_join_from_the_top_down_as_epochs_go_by() -> None:
    weights = _net()
    optimizer = Optimizer(weights, Sgd(name="sgd"), TrainingSpec(unfreeze_every_epochs=2), LAYERS)
    moved = [_stepped(weights, optimizer, epoch) for epoch in (0, 1, 2, 3, 4, 99)]
    assert moved[0] == moved[1] == [0.0, 0.0, 1.0]
    assert moved[2] == moved[3] == [0.0, 1.0, 1.0]
    assert moved[4] == moved[5] == [1.0, 1.0, 1.0]


def test_clipping_does_not_see_the_gradients_of_frozen_layers() -> None:
    weights = _net()
    training = TrainingSpec(unfreeze_every_epochs=2, clip_norm=0.5)
    moved = _stepped(weights, Optimizer(weights, Sgd(name="sgd"), training, LAYERS), 0)
    assert moved == [0.0, 0.0, pytest.approx(0.5)]


def test_the_running_mean_of_the_weights_is_seen_within_its_block_only() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = Optimizer({"w": weight}, Sgd(name="sgd"), TrainingSpec(ema=0.9))
    mean = 0.0
    for step in range(200):
        weight.grad = torch.ones(1)
        optimizer.step(1.0, 0.0, step)
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * -(step + 1)
    assert weight.item() == -200.0
    with optimizer.averaged():
        assert weight.item() == pytest.approx(mean, rel=1e-5)
        assert mean == pytest.approx(-191.0, abs=0.1)
    assert weight.item() == -200.0
    optimizer.settle()
    assert weight.item() == pytest.approx(mean, rel=1e-5)
