"""Prints how fast our whole loop is, as a part of the speed of a bare PyTorch loop and of others.

Everything of ours is on: clipping, a schedule, a running mean of the weights, the finite check,
diagnostics every 50 steps, progress, the listener; then once without the diagnostics. The others
train the same net by their shortest loops, fed a batch at a time. All run in turns, one thread
each, so that a busy machine slows all alike. Run it as a script.
"""

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from tests.benchmarks.alone import Quiet, train_alone

ROUNDS = 7
EPOCHS = 3
BATCH_SIZE = 128
NUM_SAMPLES = 12_800  # 100 steps an epoch
RATIO_MIN = 0.95  # of the bare loop
LOOKS_RATIO_MIN = 0.99  # with diagnostics, of our loop without
EVERYTHING = {
    "clip_norm": 1.0,
    "ema": 0.999,
    "on_non_finite": "skip",
    "schedule": {"name": "cosine", "warmup_epochs": 1.0},
}


class StepTimes(Quiet):
    """A listener that notes when the first and the last step were done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def advance(self, step: int) -> None:
        self.times.append(time.perf_counter())

    @property
    def rate(self) -> float:
        """Steps per second, from the end of the first to that of the last."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


def ours(folder: Path, diagnostics_every_steps: int = 50) -> float:
    """Return the steps per second of our loop."""
    listener = StepTimes()
    train_alone(
        folder,
        listener,
        data={"source": "npz", "path": "data.npz", "test_fraction": 0.0},
        model={"kind": "mlp", "hidden": [512, 512]},
        training={
            "epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
            "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
            "diagnostics_every_steps": diagnostics_every_steps,
            **EVERYTHING,
        },
    )
    return listener.rate


def net() -> nn.Module:
    """The same net."""
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    """The same optimizer."""
    return torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)


def batches(x: Tensor, y: Tensor) -> "DataLoader[tuple[Tensor, ...]]":
    """The fastest way to feed such data through a DataLoader: a whole batch by one index."""
    data = TensorDataset(x, y)
    sampler = BatchSampler(RandomSampler(data), BATCH_SIZE, drop_last=True)
    return DataLoader(data, sampler=sampler, batch_size=None)


def bare(x: Tensor, y: Tensor) -> float:
    """Return the steps per second of the shortest loop in plain torch, with nothing else on."""
    module, times = net(), StepTimes()
    optimizer = sgd(module)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(x)), BATCH_SIZE):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(module(x[rows]), y[rows]))
            optimizer.step()
            times.advance(0)
    return times.rate


def fabric(x: Tensor, y: Tensor) -> float:
    """Return the steps per second of Lightning Fabric's shortest loop."""
    from lightning.fabric import Fabric

    runtime, times = Fabric(accelerator="cpu", devices=1), StepTimes()
    module, optimizer = runtime.setup(*_made())
    loader = runtime.setup_dataloaders(batches(x, y))
    for x_B, y_B in _epochs(loader):
        optimizer.zero_grad()
        runtime.backward(nn.functional.cross_entropy(module(x_B), y_B))
        optimizer.step()
        times.advance(0)
    return times.rate


def accelerate(x: Tensor, y: Tensor) -> float:
    """Return the steps per second of Accelerate's shortest loop."""
    from accelerate import Accelerator

    runtime, times = Accelerator(cpu=True), StepTimes()
    module, optimizer = runtime.prepare(*_made())
    for x_B, y_B in _epochs(batches(x, y)):  # its own loader knows no whole batches
        optimizer.zero_grad()
        runtime.backward(nn.functional.cross_entropy(module(x_B), y_B))
        optimizer.step()
        times.advance(0)
    return times.rate


def lightning(x: Tensor, y: Tensor) -> float:
    """Return the steps per second of Lightning's Trainer, without logs and checkpoints."""
    from lightning.pytorch import LightningModule, Trainer

    times = StepTimes()

    class Learner(LightningModule):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: list[Tensor], number: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self.net)

        def on_train_batch_end(self, *_: Any) -> None:
            times.advance(0)

    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Learner(), batches(x, y))
    return times.rate


def _made() -> tuple[nn.Module, torch.optim.Optimizer]:
    module = net()
    return module, sgd(module)


def _epochs(loader: Any) -> Iterator[Any]:
    for _ in range(EPOCHS):
        yield from loader


def main() -> None:
    """Run all in turns and print the medians of the ratios."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    generator = np.random.default_rng(0)
    x = generator.random((NUM_SAMPLES, 784), dtype=np.float32)
    y = generator.integers(0, 10, NUM_SAMPLES)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        np.savez(folder / "data.npz", x=x, y=y)
        given = torch.from_numpy(x), torch.from_numpy(y)
        loops: dict[str, Callable[[], float]] = {
            "ours": lambda: ours(folder),
            "ours, no diagnostics": lambda: ours(folder, diagnostics_every_steps=0),
            "bare": lambda: bare(*given),
            "fabric": lambda: fabric(*given),
            "accelerate": lambda: accelerate(*given),
            "lightning": lambda: lightning(*given),
        }
        for loop in loops.values():
            loop()
        rates: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(ROUNDS):
            for name, loop in loops.items():
                rates[name].append(loop())
            print("  ".join(f"{one} {found[-1]:.0f}/s" for one, found in rates.items()))
    wanted = {"bare": RATIO_MIN, "ours, no diagnostics": LOOKS_RATIO_MIN}
    for name in list(loops)[1:]:
        ratio = np.median(np.divide(rates["ours"], rates[name]))
        print(f"ours over {name}: {ratio:.3f}, at least {wanted.get(name, 1.0)} is wanted")


if __name__ == "__main__":
    main()
