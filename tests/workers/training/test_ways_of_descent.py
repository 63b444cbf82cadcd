"""Every way of gradient descent learns the digits, and goes on to the same bits when resumed."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.training.attempts import launch, recipe, run_alone, saved_tensors
from workers.contract.outcome import Result

MODEL = {"kind": "mlp", "hidden": [64, 32], "normalization": "batch", "dropout": 0.1}
EPOCHS, STEPS_PER_EPOCH = 8, 14  # 1,437 samples in batches of 100
STOP_AT = 53  # in the fourth epoch
LEARNED = 15.0  # test error in %; chance is 90

WAYS: dict[str, dict[str, Any]] = {
    "bfloat16": {"precision": "bf16"},
    "float16 with a scaled loss": {"precision": "fp16"},
    "a running mean of the weights": {"ema": 0.9},
    "lower layers slower and later": {"layer_decay": 0.8, "unfreeze_every_epochs": 1},
    "micro-batches": {"accumulate": 4, "clip_norm": 1.0},
    "compiled": {"compile": True},
    "nothing kept for the backward pass": {"activation_checkpointing": True},
}
RATES = {
    "adam": 0.01,
    "adamw": 0.01,
    "nadam": 0.01,
    "radam": 0.01,
    "adamax": 0.01,
    "rmsprop": 0.003,
    "adagrad": 0.05,
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {"warmup_epochs": 1.5},
    "linear": {"final_fraction": 0.1},
    "step": {"at_epochs": [5]},
    "one_cycle": {},
}
WAYS |= {name: {"optimizer": {"name": name, "lr": lr}} for name, lr in RATES.items()}
WAYS |= {name: {"schedule": {"name": name, **more}} for name, more in SCHEDULES.items()}


@pytest.mark.parametrize("way", WAYS)
def test_it_learns_and_a_resumed_run_ends_with_the_same_bits(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The compiler proper needs a C++ compiler on the machine; what is ours is how it is called.
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    training = {"epochs": EPOCHS, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}
    spec = recipe(model=MODEL, training={**training, **WAYS[way]})
    whole = run_alone(launch(spec, tmp_path / "whole"))
    assert whole.outcome.metrics["test_error"] < LEARNED

    stopped = run_alone(launch(spec, tmp_path / "cut"), stop_at=STOP_AT)
    assert stopped.outcome.result is Result.STOPPED
    torch.manual_seed(1)
    resumed = run_alone(launch(spec, tmp_path / "cut", 2, stopped.recorder.refs))
    assert resumed.outcome.metrics == whole.outcome.metrics
    there = saved_tensors(tmp_path / "whole", whole.recorder.refs[0])
    again = saved_tensors(tmp_path / "cut", resumed.recorder.refs[0])
    assert [name for name in there if not torch.equal(there[name], again[name])] == []
