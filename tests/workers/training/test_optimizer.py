"""Our optimizer steps are those of torch.optim, and so are the rates of the schedule."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from workers.contract.recipe import Recipe
from workers.contract.training_spec import Adam, Sgd
from workers.stages.catalog import StagePlan, plan_stages
from workers.training.optimizer import Optimizer
from workers.training.schedule import lr_at, momentum_at

CASES: dict[str, tuple[Sgd | Adam, type[Any], dict[str, Any]]] = {
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
}


@pytest.mark.parametrize("case", CASES)
def test_ten_steps_lead_to_where_torch_optim_leads(case: str) -> None:
    spec, kind, options = CASES[case]
    start = [torch.randn(4, 3), torch.randn(3)]
    ours = {str(k): nn.Parameter(tensor.clone()) for k, tensor in enumerate(start)}
    theirs = [nn.Parameter(tensor.clone()) for tensor in start]
    optimizer, reference = Optimizer(ours, spec), kind(theirs, **options)
    momentum = spec.momentum if isinstance(spec, Sgd) else 0.0
    for _ in range(10):
        for one, other in zip(ours.values(), theirs, strict=True):
            gradient = torch.randn_like(one)
            one.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step(spec.lr, momentum)
        reference.step()
    for one, other in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_state_that_is_loaded_in_place_goes_on_with_the_same_bits() -> None:
    weights = [{"w": nn.Parameter(torch.ones(3))} for _ in range(2)]
    first, second = (Optimizer(one, Adam(name="adam")) for one in weights)
    gradient = torch.tensor([1.0, -2.0, 3.0])
    weights[0]["w"].grad = gradient
    first.step(0.1, 0.0)
    with torch.no_grad():
        weights[1]["w"].copy_(weights[0]["w"])
    for name, tensors in second.tensors().items():
        tensors["w"].copy_(first.tensors()[name]["w"])
    for one, optimizer in zip(weights, (first, second), strict=True):
        one["w"].grad = gradient
        optimizer.step(0.1, 0.0)
    assert torch.equal(weights[0]["w"], weights[1]["w"])


def _plan(**training: Any) -> StagePlan:
    recipe = Recipe.model_validate(
        {
            "data": {"source": "digits"},
            "model": {"kind": "mlp", "hidden": [5]},
            "training": {"epochs": 10, "optimizer": {"name": "sgd", "lr": 2.0}, **training},
        }
    )
    return plan_stages(recipe, 1000, 1)[0]


def test_the_rate_warms_up_and_then_falls_by_half_a_cosine() -> None:
    plan = _plan(schedule={"name": "cosine", "warmup_epochs": 2})
    assert [lr_at(plan, step) for step in (0, 9, 19, 20)] == [0.1, 1.0, 2.0, 2.0]
    assert lr_at(plan, 60) == pytest.approx(1.0)
    assert 0.0 < lr_at(plan, 99) < 0.01
    rates = [lr_at(plan, step) for step in range(20, 100)]
    assert rates == sorted(rates, reverse=True)
    assert math.isclose(lr_at(_plan(), 99), 2.0)


def test_the_momentum_switches_at_its_epoch() -> None:
    recipe = Recipe.model_validate(
        {
            "data": {"source": "digits"},
            "model": {"kind": "mlp", "hidden": [5], "activation": "sigmoid"},
            "pretraining": {"method": "rbm", "momentum_switch_epoch": 3},
        }
    )
    plan = plan_stages(recipe, 1000, 1)[0]
    assert [momentum_at(plan, epoch) for epoch in (0, 2, 3, 9)] == [0.5, 0.5, 0.9, 0.9]
