"""Jobs beside each other: the differences of their recipes, and figures with their spread."""

import math
from typing import Any

import pytest

from service.control.compare import CURVE_POINTS, Ran, compare
from service.domain.matrix import merged

SPEC: dict[str, Any] = {
    "name": "a",
    "labels": {},
    "seed": 0,
    "model": {"kind": "mlp", "hidden": [100]},
    "pretraining": None,
    "training": {"epochs": 100, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}},
}
RBM = {"method": "rbm", "lr": 0.1, "cd_k": 1}
DAE = {"method": "denoising_autoencoder", "lr": 0.1, "corruption_level": 0.25}
ADAM = {"name": "adam", "lr": 0.1, "eps": 1e-8}


def ran(change: dict[str, Any] | None = None, **more: Any) -> Ran:
    spec = merged(SPEC, change or {})
    fields: dict[str, Any] = {
        "id": f"id-{spec['name']}-{spec['seed']}",
        "name": spec["name"],
        "state": "succeeded",
        "spec": spec,
        "metrics": {"test_error": 3.0},
        "attempts": 1,
        "seconds": 10.0,
        "epochs": (("finetune", 100),),
        "curve": ((1, 2.3), (2, 1.0)),
    }
    return Ran(**{**fields, **more})


def test_jobs_that_differ_in_their_seed_alone_are_one_arm_with_a_mean_and_a_spread() -> None:
    jobs = [
        ran({"name": f"a-{seed}", "seed": seed}, metrics={"test_error": error}, seconds=seconds)
        for seed, error, seconds in [(0, 2.0, 10.0), (1, 4.0, 20.0), (2, 6.0, 30.0)]
    ]
    compared = compare(jobs)
    (arm,) = compared.arms
    assert compared.paths == ()
    assert arm.seeds == (0, 1, 2)
    error = arm.metrics["test_error"]
    assert (error.mean, error.sd, error.num_jobs) == (4.0, 2.0, 3)
    assert arm.seconds is not None
    assert arm.seconds.mean == 20.0
    assert arm.attempts == 3


def test_one_job_has_no_spread() -> None:
    assert compare([ran()]).arms[0].metrics["test_error"].sd is None


@pytest.mark.parametrize("wrong", [None, math.nan, math.inf])
def test_what_is_not_finite_is_left_out_of_a_mean(wrong: float | None) -> None:
    jobs = [ran(), ran({"seed": 1}, metrics={"test_error": wrong})]
    figure = compare(jobs).arms[0].metrics["test_error"]
    assert (figure.mean, figure.num_jobs) == (3.0, 1)


@pytest.mark.parametrize(
    ("changes", "paths", "cells"),
    [
        ([{}, {"training": {"epochs": 7}}], ["training.epochs"], [["100"], ["7"]]),
        (
            [{}, {"model": {"hidden": [100] * 10}}, {"model": {"hidden": [5, 6]}}],
            ["model.hidden"],
            [["100"], ["10 x 100"], ["5, 6"]],
        ),
        ([{}, {"pretraining": RBM}], ["pretraining.method"], [["-"], ["rbm"]]),
        (
            [{}, {"pretraining": RBM}, {"pretraining": {**DAE, "lr": 0.003}}],
            ["pretraining.method", "pretraining.lr"],
            [["-", "-"], ["rbm", "0.1"], ["denoising_autoencoder", "0.003"]],
        ),
        (
            [{}, {"training": {"optimizer": ADAM}}],
            ["training.optimizer.name"],
            [["sgd"], ["adam"]],
        ),
        ([{}, {"training": {"clip_norm": 1.0}}], ["training.clip_norm"], [["-"], ["1"]]),
        ([{"labels": {"x": "y"}, "queue": "q"}, {"retries": 3}], [], [[]]),
    ],
)
def test_only_the_differences_of_recipes_are_told(
    changes: list[dict[str, Any]], paths: list[str], cells: list[list[str]]
) -> None:
    compared = compare([ran(change) for change in changes])
    assert list(compared.paths) == paths
    assert [list(arm.recipe.values()) for arm in compared.arms] == cells


def test_an_arm_is_named_by_its_matrix_and_else_by_its_first_job() -> None:
    jobs = [ran({"name": "m-x-seed-0", "labels": {"arm": "x"}}), ran({"name": "b", "code": "c"})]
    assert [arm.name for arm in compare(jobs).arms] == ["x", "b"]


def test_the_epochs_of_all_stages_are_told() -> None:
    stages = (*(("rbm", 40) for _ in range(10)), ("finetune", 40))
    assert compare([ran(epochs=stages)]).arms[0].epochs == "10 x 40 + 40"


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    curve = tuple((step, 1.0 / (1 + step)) for step in range(1000))
    thin = compare([ran(curve=curve)]).arms[0].curve
    assert len(thin) == CURVE_POINTS
    assert (thin[0], thin[-1]) == (curve[0], curve[-1])


def test_every_state_of_an_arm_is_told_once() -> None:
    jobs = [ran(), ran({"seed": 1}), ran({"seed": 2}, state="failed", metrics={}, curve=())]
    assert compare(jobs).arms[0].states == ("succeeded", "failed")
