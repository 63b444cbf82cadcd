"""Combinations in a recipe that can't work: each is refused with its place and a sentence."""

import ast
import inspect
from typing import Any

import pytest
from pydantic import ValidationError

from tests.workers.contract.written import DAE, GREEDY, RBM, written
from workers.contract import (
    checkpoint_spec,
    data_spec,
    init_spec,
    model_spec,
    pretraining_spec,
    recipe,
    training_spec,
)
from workers.contract.data_spec import NpzData
from workers.contract.recipe import Recipe
from workers.contract.recipe_words import RecipeMistake

NPZ = {"source": "npz", "path": "d.npz"}
RELU = ("model.activation", "relu")
GELU = ("model.activation", "gelu")
RESNET = ("model", {"kind": "resnet", "depth": 20})
TRANSFORMER = ("model", {"kind": "transformer"})
CUSTOM = ("model", {"kind": "custom", "import": "nets:build"})
STANDARDIZED = ("data.scale", "standardize")
VALIDATION = ("data.validation_fraction", 0.1)
LOSS = "pretraining.reconstruction_loss"


def _dae(**options: Any) -> tuple[str, Any]:
    return "pretraining", DAE | options


def _rbm(**options: Any) -> tuple[str, Any]:
    return "pretraining", RBM | options


def _greedy(**options: Any) -> tuple[str, Any]:
    return "pretraining", GREEDY | options


def _schedule(**options: Any) -> tuple[str, Any]:
    return "training.schedule", options


SYNTHETIC = {"source": "synthetic", "shape": [64]}

MISTAKES: list[tuple[str, str, list[tuple[str, Any]]]] = [
    ("weights", "either a job", [("init_from", {"partial": True})]),
    ("weights", "either a job", [("init_from", {"source": "a", "weights": "w.safetensors"})]),
    ("sha256", "goes with", [("init_from", {"source": "a", "sha256": "0" * 64})]),
    ("x_test", "both", [("data", NPZ | {"x_test": "a"})]),
    ("x_test", "both", [("data", NPZ | {"y_test": "b"})]),
    ("augment", "image: true", [("data.augment", {"flip": 0.5})]),
    ("std", "as for mean", [("data.normalize", {"mean": [0, 0], "std": [1]})]),
    ("nesterov", "momentum", [("training.optimizer", {"name": "sgd", "nesterov": True})]),
    (
        "decoupled_weight_decay",
        "take nadam or radam",
        [("training.optimizer", {"name": "adamax", "decoupled_weight_decay": True})],
    ),
    ("warmup_epochs", "one_cycle", [_schedule(name="one_cycle", warmup_epochs=1)]),
    ("at_epochs", "name: step", [_schedule(name="step")]),
    ("at_epochs", "name: step", [_schedule(name="cosine", at_epochs=[2])]),
    ("at_epochs", "rising", [_schedule(name="step", at_epochs=[4, 2])]),
    ("final_fraction", "only cosine", [_schedule(name="constant", final_fraction=0.1)]),
    (
        "training.early_stop",
        "validation part",
        [("data.validation_fraction", 0.0), ("training.early_stop", {"patience": 3})],
    ),
    (
        "training.evaluate_every_steps",
        "validation part",
        [("data.validation_fraction", 0.0), ("training.evaluate_every_steps", 5)],
    ),
    (
        "training.early_stop",
        "data.validation_samples",
        [("data", SYNTHETIC), ("training.early_stop", {"patience": 3})],
    ),
    ("shape", "numbers", [("data", SYNTHETIC | {"shape": [2**20, 2**10]})]),
    ("data.y", "pretraining.data", [("data", {"source": "npy", "x": "x.npy", "y": None})]),
    ("data.y", "name them", [("data", NPZ | {"y": None})]),
    ("data.label", "name them", [("data", {"source": "csv", "path": "t.csv", "label": None})]),
    (
        "pretraining.data",
        "learns from labels",
        [("pretraining", {"method": "greedy_supervised", "data": {"source": "digits"}})],
    ),
    (
        "accumulate",
        "a batch of 8",
        [("training.batch_size", 8), ("training.accumulate", 9)],
    ),
    ("pretraining.layers", "asks for 4 layers", [_dae(layers=4)]),
    ("pretraining.layers", "asks for 11 layers", [_greedy(layers=11), RESNET]),
    ("pretraining.layers", "write how many", [_greedy(), CUSTOM]),
    ("pretraining.method", "is resnet", [_rbm(), RESNET]),
    ("pretraining.method", "a transformer has neither", [_dae(), TRANSFORMER]),
    ("pretraining.tied_weights", "tied_weights: false", [_dae(), RESNET]),
    (LOSS, "codes of resnet", [_dae(tied_weights=False), RESNET]),
    ("heads", "can't share", [("model", {"kind": "transformer", "heads": 3})]),
    ("pretraining.epochs", "2 values for 3", [_rbm(epochs=[1, 2])]),
    ("pretraining.epochs", "3 values for 2", [_greedy(layers=2, epochs=[1, 2, 3])]),
    ("pretraining.epochs", "one number", [_greedy(parallel=True, epochs=[1, 2, 3])]),
    ("pretraining.method", "plain layers", [_dae(), ("model.residual", True)]),
    ("pretraining.method", "plain layers", [_rbm(), ("model.normalization", "batch")]),
    ("model.activation", "sigmoid", [_rbm(), RELU]),
    ("data.scale", "scale: unit", [_rbm(), STANDARDIZED]),
    ("data.scale", "unit variance", [_rbm(visible="gaussian")]),
    ("model.activation", "relu units", [_rbm(hidden="relu")]),
    ("pretraining.persistent", "run away", [_rbm(hidden="relu", persistent=True), RELU]),
    ("pretraining.lr", "2 values for 3", [_rbm(lr=[0.1, 0.2])]),
    ("pretraining.sparsity_target", "sigmoid units", [_dae(sparsity_target=0.1), RELU]),
    ("pretraining.contractive_penalty", "not for gelu", [_dae(contractive_penalty=1), GELU]),
    ("pretraining.corruption_level", "1 values for 3", [_dae(corruption_level=[0.1])]),
    (LOSS, "standardize", [_dae(), STANDARDIZED]),
    (LOSS, "relu codes", [_dae(), RELU]),
    ("checkpoint.best", "validation_fraction", [("checkpoint.best", {})]),
    (
        "checkpoint.best.mode",
        "mode: max",
        [("checkpoint.best", {"metric": "validation_accuracy"}), VALIDATION],
    ),
]


@pytest.mark.parametrize(("path", "words", "changes"), MISTAKES)
def test_a_combination_that_cannot_work_is_refused_with_its_place_and_a_sentence(
    path: str, words: str, changes: list[tuple[str, Any]]
) -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(written(*changes))

    (error,) = caught.value.errors()
    mistake = error["ctx"]["error"]
    assert isinstance(mistake, RecipeMistake)
    assert mistake.path == path
    assert words in mistake.sentence


FILES = (
    checkpoint_spec,
    data_spec,
    init_spec,
    model_spec,
    pretraining_spec,
    recipe,
    training_spec,
)


def test_every_mistake_that_the_recipe_knows_is_tested() -> None:
    known: set[object] = set(recipe.WATCHERS)
    for node in (one for file in FILES for one in ast.walk(ast.parse(inspect.getsource(file)))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("RecipeMistake", "check_length")
            and isinstance(node.args[0], ast.Constant)
        ):
            known.add(node.args[0].value)

    assert known == {path for path, _, _ in MISTAKES}


def test_a_mistake_inside_of_a_part_is_told_with_the_place_of_the_part() -> None:
    with pytest.raises(ValidationError) as caught:
        NpzData.model_validate(NPZ | {"x_test": "a"})
    assert caught.value.errors()[0]["loc"] == ()

    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(written(("data", NPZ | {"x_test": "a"})))
    assert caught.value.errors()[0]["loc"] == ("data", "npz")
