"""A spec is one flat page; the recipe in it is what the workers get."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.domain.spec import JobSpec
from workers.contract.recipe import Recipe

LEAST: dict[str, Any] = {
    "name": "digits",
    "data": {"source": "digits"},
    "model": {"kind": "mlp", "hidden": [8]},
}


def test_the_recipe_holds_the_workers_keys_and_none_of_the_services() -> None:
    spec = JobSpec.model_validate(LEAST | {"seed": 7, "queue": "fast", "priority": 3})
    assert type(spec.recipe) is Recipe
    assert spec.recipe.seed == 7
    assert set(spec.recipe.model_dump()) == set(Recipe.model_fields)


def test_a_recipe_survives_its_way_to_the_workers() -> None:
    recipe = JobSpec.model_validate(LEAST).recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_batch_smaller_than_the_gang_is_refused_with_its_place() -> None:
    written = LEAST | {"resources": {"workers": 4}, "training": {"batch_size": 3}}
    with pytest.raises(ValidationError, match="every one of 4 workers"):
        JobSpec.model_validate(written)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "with space"},
        {"name": "../up"},
        {"priority": 1001},
        {"retries": -1},
        {"env": {"NOT-A-NAME": "x"}},
        {"max_duration": "soon"},
        {"prioritiy": 1},
    ],
)
def test_what_can_not_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(LEAST | wrong)
