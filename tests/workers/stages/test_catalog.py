"""The stages that a recipe asks for."""

from typing import Any

import pytest

from workers.contract.outcome import ConfigFailure
from workers.contract.recipe import Recipe
from workers.contract.training_spec import Adam, Sgd
from workers.stages.catalog import MomentumSwitch, plan_stages


def _recipe(**parts: Any) -> Recipe:
    return Recipe.model_validate(
        {"data": {"source": "digits"}, "model": {"kind": "mlp", "hidden": [9, 8, 7]}, **parts}
    )


def test_stages_follow_each_other_and_drop_the_last_partial_batch() -> None:
    plans = plan_stages(
        _recipe(
            pretraining={
                "method": "greedy_supervised",
                "layers": 2,
                "epochs": [3, 1],
                "lr": [0.01, 0.002],
            },
            training={"epochs": 2, "batch_size": 500},
        ),
        num_pretraining=1437,
        num_samples=900,
        world_size=2,
    )
    assert [plan.name for plan in plans] == ["pretrain-01", "pretrain-02", "finetune"]
    assert [plan.steps for plan in plans] == [42, 14, 2]
    assert [plan.first_step for plan in plans] == [0, 42, 56]
    assert [plan.first_sample for plan in plans] == [0, 4200, 5600]
    assert [plan.layers for plan in plans] == [(0,), (1,), ()]
    assert [plan.is_finetuning for plan in plans] == [False, False, True]
    assert plans[0].optimizer == Adam(name="adam", lr=0.01)
    assert plans[1].optimizer == Adam(name="adam", lr=0.002)


def test_an_rbm_switches_its_momentum_and_decays_by_itself() -> None:
    recipe = _recipe(
        model={"kind": "mlp", "hidden": [9], "activation": "sigmoid"},
        pretraining={"method": "rbm"},
    )
    plan = plan_stages(recipe, 1437, 1437, 1)[0]
    assert plan.optimizer == Sgd(name="sgd", lr=0.1, momentum=0.5)
    assert plan.momentum_switch == MomentumSwitch(5, 0.9)


@pytest.mark.parametrize(
    ("batch_size", "sentence"), [(2000, "more than the 1437 samples"), (3, "each of 4 workers")]
)
def test_a_batch_that_can_not_be_is_refused(batch_size: int, sentence: str) -> None:
    recipe = _recipe(training={"batch_size": batch_size})
    with pytest.raises(ConfigFailure, match=rf"training\.batch_size: .*{sentence}"):
        plan_stages(recipe, 1437, 1437, world_size=4)


def test_a_batch_that_leaves_batch_normalization_single_samples_is_refused() -> None:
    model = {"kind": "mlp", "hidden": [9], "normalization": "batch"}
    recipe = _recipe(model=model, training={"batch_size": 15, "accumulate": 2})
    with pytest.raises(ConfigFailure, match=r"training\.batch_size: batch norm.* 8 parts"):
        plan_stages(recipe, 1437, 1437, world_size=4)
    assert plan_stages(recipe, 1437, 1437, world_size=3)[0].steps_per_epoch == 95
