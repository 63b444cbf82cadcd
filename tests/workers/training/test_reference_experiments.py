"""The published experiments: a deep sigmoid net is stuck, and each way of pretraining rescues it.

Margins are wide, because a seed moves an arm by a point; the means are in the documentation.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.workers.training.attempts import DIGITS, launch, recipe, run_alone
from workers.contract.recipe import Recipe
from workers.contract.reports import Noticed, StageEnded

BCE = {"method": "denoising_autoencoder", "lr": 3e-3}
RBM = {"method": "rbm", "lr": 0.1}
PCD = RBM | {"persistent": True, "cd_k": 10, "momentum_final": 0.5}
GREEDY = {"method": "greedy_supervised", "lr": 3e-3}


def _arm(
    num_layers: int,
    pretraining: dict[str, Any] | None = None,
    data: dict[str, Any] = DIGITS,
    training: dict[str, Any] | None = None,
    **model: Any,
) -> Recipe:
    options = {"activation": "sigmoid", "init": "lecun_uniform", **model}
    return recipe(
        data=data,
        model={"kind": "mlp", "hidden": [100] * num_layers, **options},
        pretraining=pretraining and {"epochs": 40, "batch_size": 100, **pretraining},
        training=training or {"epochs": 100, "batch_size": 100},
    )


def test_a_shallow_net_learns(tmp_path: Path) -> None:
    assert run_alone(launch(_arm(1), tmp_path)).outcome.metrics["test_error"] < 6.0


def test_a_deep_net_is_stuck_and_is_told_why(tmp_path: Path) -> None:
    attempt = run_alone(launch(_arm(10), tmp_path))
    assert attempt.outcome.metrics["test_error"] > 80.0
    assert [fact.code for fact in attempt.recorder.of(Noticed)] == ["vanishing_gradient"]


@pytest.mark.parametrize(
    "pretraining",
    [BCE, GREEDY, GREEDY | {"parallel": True}],
    ids=["autoencoder", "greedy", "all at once"],
)
def test_pretraining_rescues_a_deep_net(pretraining: dict[str, Any], tmp_path: Path) -> None:
    attempt = run_alone(launch(_arm(10, pretraining), tmp_path))
    assert attempt.outcome.metrics["test_error"] < 8.0
    assert attempt.recorder.of(Noticed) == []
    ended: list[StageEnded] = attempt.recorder.of(StageEnded)
    assert all(fact.metrics["code_sd"] > 0.07 for fact in ended[:-1])


@pytest.mark.parametrize("rbm", [RBM, PCD], ids=["cd", "pcd"])
def test_a_deep_belief_network_rescues_a_deep_net(rbm: dict[str, Any], tmp_path: Path) -> None:
    attempt = run_alone(launch(_arm(10, rbm), tmp_path))
    assert attempt.outcome.metrics["test_error"] < 8.0


def test_gaussian_visible_units_rescue_a_deep_net(tmp_path: Path) -> None:
    gaussian = RBM | {"visible": "gaussian", "lr": [0.01] + [0.1] * 9}
    attempt = run_alone(launch(_arm(10, gaussian, DIGITS | {"scale": "standardize"}), tmp_path))
    assert attempt.outcome.metrics["test_error"] < 8.0


OTHER_WAYS: dict[str, dict[str, Any]] = {
    "salt and pepper": {"corruption": "salt_and_pepper"},
    "gaussian noise": {"corruption": "gaussian"},
    "untied": {"tied_weights": False},
    "sparse": {"sparsity_target": 0.1},
    "contractive": {"corruption": "none", "contractive_penalty": 0.1},
}


@pytest.mark.soak
@pytest.mark.parametrize("way", OTHER_WAYS)
def test_every_kind_of_autoencoder_rescues_a_deep_net(way: str, tmp_path: Path) -> None:
    attempt = run_alone(launch(_arm(10, BCE | OTHER_WAYS[way]), tmp_path))
    assert attempt.outcome.metrics["test_error"] < 8.0


@pytest.mark.soak
def test_rectified_hidden_units_leave_a_deep_relu_net_that_learns(tmp_path: Path) -> None:
    rectified = RBM | {"visible": "gaussian", "hidden": "relu", "lr": 0.001}
    training = {
        "epochs": 100,
        "batch_size": 100,
        "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9},
        "schedule": {"name": "cosine"},
    }
    data = DIGITS | {"scale": "standardize"}
    arm = _arm(10, rectified, data, training, activation="relu")
    assert run_alone(launch(arm, tmp_path)).outcome.metrics["test_error"] < 8.0


def test_four_times_xavier_needs_no_pretraining(tmp_path: Path) -> None:
    outcome = run_alone(launch(_arm(10, init="xavier", gain=4.0), tmp_path)).outcome
    assert outcome.metrics["test_error"] < 8.0


def test_an_autoencoder_that_kills_its_codes_is_noticed(tmp_path: Path) -> None:
    """A linear decoder with mse falls to a lower loss with codes that say nothing."""
    pretraining = {**BCE, "layers": 4, "reconstruction_loss": "mse"}
    attempt = run_alone(launch(_arm(10, pretraining), tmp_path))
    assert "representation_collapsed" in [fact.code for fact in attempt.recorder.of(Noticed)]
