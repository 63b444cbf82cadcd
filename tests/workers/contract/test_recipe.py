"""Recipes: what is written right is understood, what is written wrong names its place."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.workers.contract.written import DAE, GREEDY, PLAIN, RBM, written
from workers.contract.checkpoint_spec import KEEP_MAX
from workers.contract.data_spec import PROCESSES_MAX, SIDE_MAX
from workers.contract.pretraining_spec import DenoisingAutoencoder
from workers.contract.recipe import Recipe
from workers.contract.recipe_words import (
    BATCH_SIZE_MAX,
    EPOCHS_MAX,
    LAYERS_MAX,
    SEED_MAX,
    STEPS_MAX,
    UNITS_MAX,
)
from workers.contract.training_spec import (
    ACCUMULATE_MAX,
    DIAGNOSTICS_STEPS_MAX,
    RATE_CHANGES_MAX,
    Adam,
    Sgd,
)

# --- what is right --------------------------------------------------------------------------------


def test_data_and_model_are_enough() -> None:
    recipe = Recipe.model_validate(PLAIN)

    assert recipe.pretraining is None
    assert recipe.num_pretrained_layers == 0
    assert recipe.training.optimizer == Sgd(name="sgd", lr=0.1, momentum=0.9)
    assert recipe.seed == 0


@pytest.mark.parametrize("method", [DAE, RBM, GREEDY], ids=lambda method: str(method["method"]))
def test_pretraining_walks_through_all_hidden_layers_unless_told_otherwise(
    method: dict[str, Any],
) -> None:
    every = Recipe.model_validate(written(("pretraining", method)))
    two = Recipe.model_validate(written(("pretraining", {**method, "layers": 2})))

    assert (every.num_pretrained_layers, two.num_pretrained_layers) == (3, 2)


def test_one_value_serves_every_layer_and_a_list_one_each() -> None:
    one = DenoisingAutoencoder.model_validate(DAE | {"epochs": 5, "corruption_level": 1})
    each = DenoisingAutoencoder.model_validate(
        DAE | {"epochs": [5, 6, 7], "corruption_level": [0.1, 0.2, 0.3]}
    )

    assert [one.epochs_of(layer) for layer in range(3)] == [5, 5, 5]
    assert [one.corruption_level_of(layer) for layer in range(3)] == [1.0, 1.0, 1.0]
    assert [each.epochs_of(layer) for layer in range(3)] == [5, 6, 7]
    assert [each.corruption_level_of(layer) for layer in range(3)] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    "changes",
    [
        [("pretraining", GREEDY), ("model.residual", True)],
        [("pretraining", GREEDY), ("model.normalization", "batch")],
        [("pretraining", GREEDY), ("model.activation", "relu"), ("data.scale", "standardize")],
        [("pretraining", DAE | {"reconstruction_loss": "mse"}), ("model.activation", "relu")],
        [("pretraining", DAE | {"reconstruction_loss": "mse"}), ("data.scale", "standardize")],
        [("pretraining", DAE | {"layers": 1}), ("model.activation", "relu")],
        [("pretraining", GREEDY), ("model", {"kind": "resnet", "depth": 20})],
        [("pretraining", GREEDY), ("model", {"kind": "transformer"})],
        [("pretraining", GREEDY | {"layers": 2}), ("model", {"kind": "custom", "import": "n:b"})],
        [
            ("pretraining", DAE | {"tied_weights": False, "layers": 1}),
            ("model", {"kind": "resnet", "depth": 20}),
        ],
        [("model.residual", True), ("model.normalization", "layer")],
        [("training.optimizer", {"name": "adamw", "betas": [0.8, 0.9]})],
        [("training.optimizer", {"name": "sgd", "nesterov": True, "momentum": 0.9})],
        [("training.optimizer", {"name": "nadam", "decoupled_weight_decay": True})],
        [("data", {"source": "npz", "path": "d.npz", "x_test": "a", "y_test": "b"})],
        [("data", {"source": "idx", "path": "mnist"})],
        [("checkpoint.best", {}), ("data.validation_fraction", 0.1)],
    ],
)
def test_neighbours_of_the_mistakes_are_accepted(changes: list[tuple[str, Any]]) -> None:
    recipe = Recipe.model_validate(written(*changes))

    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@given(
    hidden=st.lists(st.integers(1, UNITS_MAX), min_size=1, max_size=12),
    seed=st.integers(0, SEED_MAX),
    lr=st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False),
    data=st.data(),
)
def test_a_recipe_survives_its_way_to_the_workers(
    hidden: list[int], seed: int, lr: float, data: st.DataObject
) -> None:
    layers = data.draw(st.integers(1, len(hidden)))
    epochs = data.draw(
        st.integers(1, EPOCHS_MAX)
        | st.lists(st.integers(1, EPOCHS_MAX), min_size=layers, max_size=layers)
    )
    levels = data.draw(
        st.floats(0, 1) | st.lists(st.floats(0, 1), min_size=layers, max_size=layers)
    )
    recipe = Recipe.model_validate(
        written(
            ("model.hidden", hidden),
            ("pretraining", DAE | {"layers": layers, "epochs": epochs, "corruption_level": levels}),
            ("training.optimizer", {"name": "adam", "lr": lr}),
            ("seed", seed),
        )
    )

    again = Recipe.model_validate_json(recipe.model_dump_json())

    assert again == recipe
    assert isinstance(again.training.optimizer, Adam)
    assert again.training.optimizer.lr == lr


# --- single values that are refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.source", "mnist"),
        ("data.scale", "log"),
        ("data.test_fraction", 1.0),
        ("data.split_seed", SEED_MAX + 1),
        ("data.augment", {"flip": 1.1}),
        ("data.augment", {"noise": -0.1}),
        ("data.augment", {"cutout": SIDE_MAX + 1}),
        ("data.normalize", {"mean": [0.0], "std": [0.0]}),
        ("data.normalize", {"mean": [], "std": []}),
        ("data.workers", PROCESSES_MAX + 1),
        ("data", {"source": "image_folder", "path": "p", "size": 0}),
        ("data", {"source": "image_folder", "path": "p", "size": 8, "channels": 2}),
        ("data", {"source": "image_folder", "path": "p", "size": 8, "scale": "standardize"}),
        ("model.kind", "cnn"),
        ("model.hidden", []),
        ("model.hidden", [0]),
        ("model.hidden", [UNITS_MAX + 1]),
        ("model.hidden", [1] * (LAYERS_MAX + 1)),
        ("model.gain", 0.0),
        ("model.gain", float("inf")),
        ("model.dropout", float("nan")),
        ("model.activation", "swish"),
        ("pretraining", {"method": "magic"}),
        ("pretraining", DAE | {"corruption_level": 1.1}),
        ("pretraining", DAE | {"epochs": 0}),
        ("pretraining", RBM | {"cd_k": 0}),
        ("training.batch_size", 0),
        ("training.batch_size", BATCH_SIZE_MAX + 1),
        ("training.epochs", EPOCHS_MAX + 1),
        ("training.clip_norm", -1.0),
        ("training.optimizer", {"name": "sgd", "lr": 0.0}),
        ("training.optimizer", {"name": "lbfgs"}),
        ("training.accumulate", 0),
        ("training.accumulate", ACCUMULATE_MAX + 1),
        ("training.layer_decay", 0.0),
        ("training.layer_decay", 1.1),
        ("training.ema", 1.0),
        ("training.precision", "fp8"),
        ("training.unfreeze_every_epochs", EPOCHS_MAX + 1),
        ("training.diagnostics_every_steps", DIAGNOSTICS_STEPS_MAX + 1),
        ("training.schedule", {"name": "step", "at_epochs": range(1, RATE_CHANGES_MAX + 2)}),
        ("training.schedule", {"name": "cosine", "warmup_epochs": EPOCHS_MAX + 1}),
        ("checkpoint.every_steps", 0),
        ("checkpoint.every_steps", STEPS_MAX + 1),
        ("checkpoint.keep_last", 0),
        ("checkpoint.keep_last", KEEP_MAX + 1),
        ("checkpoint.best", {"metric": "test_error"}),
        ("seed", -1),
        ("seed", SEED_MAX + 1),
    ],
)
def test_a_value_out_of_its_range_is_refused_at_its_place(path: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(written((path, value)))

    assert caught.value.errors()[0]["loc"][0] == path.split(".", maxsplit=1)[0]


@pytest.mark.parametrize(
    "path",
    [
        "extra",
        "data.extra",
        "model.extra",
        "pretraining.extra",
        "training.extra",
        "training.optimizer.extra",
        "training.schedule.extra",
        "checkpoint.extra",
    ],
)
def test_a_key_that_nobody_knows_is_refused_at_its_place(path: str) -> None:
    known: list[tuple[str, Any]] = [
        ("pretraining", dict(DAE)),
        ("training.optimizer", {"name": "adam"}),
    ]
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(written(*known, (path, 1)))

    (error,) = caught.value.errors()
    assert error["type"] == "extra_forbidden"
    assert (error["loc"][0], error["loc"][-1]) == (path.split(".", maxsplit=1)[0], "extra")


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Recipe.model_validate(PLAIN), "seed", 1)  # noqa: B010 - mypy refuses it otherwise
