"""Every optimizer leads a net in shards, in micro-batches, to where it leads a whole one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.training.attempts import Run, launch, recipe, run_alone, run_gang, saved_tensors
from workers.contract.recipe import Recipe

OPTIMIZERS: tuple[dict[str, Any], ...] = (
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"name": "adam", "lr": 0.01},
    {"name": "adamw", "lr": 0.01, "amsgrad": True},
    {"name": "nadam", "lr": 0.01, "decoupled_weight_decay": True},
    {"name": "radam", "lr": 0.01},
    {"name": "adamax", "lr": 0.01},
    {"name": "rmsprop", "lr": 0.003, "momentum": 0.5, "centered": True},
    {"name": "adagrad", "lr": 0.05},
)


def _recipe(optimizer: dict[str, Any], **training: Any) -> Recipe:
    plain = {"epochs": 2, "batch_size": 101, "optimizer": optimizer, "clip_norm": 0.5, "ema": 0.9}
    later = {"layer_decay": 0.8, "unfreeze_every_epochs": 1}
    return recipe(
        # Some layers have fewer units than there are ranks, or a number that does not divide.
        model={"kind": "mlp", "hidden": [13, 7, 2], "activation": "tanh", "init": "xavier"},
        training={**plain, **later, **training},
    )


@pytest.mark.soak
@pytest.mark.parametrize("world_size", [2, 3])
def test_shards_and_micro_batches_change_nothing(tmp_path: Path, world_size: int) -> None:
    runs = [
        Run(
            launch(
                _recipe(optimizer, parallel="fsdp", accumulate=3, on_non_finite="skip"),
                tmp_path / f"shards-{optimizer['name']}",
                world_size=world_size,
            )
        )
        for optimizer in OPTIMIZERS
    ]
    shards = run_gang(runs, tmp_path, world_size)
    for optimizer, attempt in zip(OPTIMIZERS, shards, strict=True):
        folder = tmp_path / f"whole-{optimizer['name']}"
        alone = run_alone(launch(_recipe(optimizer), folder))
        expected = saved_tensors(folder, alone.recorder.refs[0])
        found = saved_tensors(tmp_path / f"shards-{optimizer['name']}", attempt.recorder.refs[0])
        for name, tensor in expected.items():
            if not name.startswith("rank-"):
                torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
