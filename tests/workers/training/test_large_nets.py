"""The deepest net of the catalog and the largest one train steps as any other does, on a CPU."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.workers.training.attempts import Attempt, launch, recipe, run_alone
from workers.checkpoint.weights import net_weights
from workers.contract.reports import StageEnded
from workers.data.seeds import derived_seed
from workers.models.catalog import build_net
from workers.models.layered import seeded

DEEPEST = {
    "kind": "mlp",
    "hidden": [16] * 1000,
    "residual": True,
    "normalization": "batch",
}
SGD = {"name": "sgd", "lr": 0.01, "momentum": 0.9}
PIXELS = 299
MOVED_MIN = 1e-4  # of a layer's norm; float32 rounds at 1e-7


def _trained(storage: Path, **parts: Any) -> tuple[Attempt, StageEnded]:
    attempt = run_alone(launch(recipe(**parts), storage))
    (ended,) = attempt.recorder.of(StageEnded)
    assert isinstance(ended, StageEnded)
    return attempt, ended


def _moved(
    attempt: Attempt, storage: Path, model: dict[str, Any], shape: tuple[int, ...]
) -> dict[str, float]:
    """How far training moved each layer's weights, over their norm: 0 where no gradient came."""
    net = build_net(recipe(model=model).model, shape, 10, seeded(derived_seed(0, "net")))
    last = net_weights(str(storage), attempt.recorder.refs[0])
    moved: dict[str, float] = {}
    for layer in net.names:
        first = {
            f"layers.{layer}.{name}": one.detach()
            for name, one in net.layers[layer].named_parameters()
            if "weight" in name
        }
        if first:  # pools have none
            far = sum(float((last[name] - one).square().sum()) for name, one in first.items())
            moved[layer] = (far / sum(float(one.square().sum()) for one in first.values())) ** 0.5
    return moved


def test_a_thousand_residual_layers_learn_from_the_lowest_to_the_highest(tmp_path: Path) -> None:
    training = {"epochs": 2, "batch_size": 287, "optimizer": SGD}
    attempt, ended = _trained(tmp_path, model=DEEPEST, training=training)
    assert (ended.steps, attempt.recorder.steps[-1]) == (10, 10)
    assert ended.loss_first is not None
    assert ended.loss_last is not None
    assert ended.loss_last < 0.9 * ended.loss_first
    moved = _moved(attempt, tmp_path, DEEPEST, (64,))
    assert len(moved) == 1000
    assert min(moved.values()) > MOVED_MIN


def test_inception_trains_steps_of_two_images(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    y = np.arange(10)
    x = draw.integers(0, 100, (10, 3, PIXELS, PIXELS)) + 15 * y[:, None, None, None]
    np.savez(tmp_path / "images.npz", x=x.astype(np.uint8), y=y)
    written = {"kind": "inception_v3"}
    attempt, ended = _trained(
        tmp_path,
        data={"source": "npz", "path": "images.npz", "test_fraction": 0.2},
        model=written,
        training={"epochs": 1, "batch_size": 2, "optimizer": SGD},
    )
    assert (ended.steps, attempt.recorder.steps[-1]) == (4, 4)
    assert ended.loss_last is not None
    assert 0.0 < ended.loss_last < 10.0
    moved = _moved(attempt, tmp_path, written, (3, PIXELS, PIXELS))
    assert len(moved) == 16  # two more layers are pools
    assert min(moved.values()) > MOVED_MIN
