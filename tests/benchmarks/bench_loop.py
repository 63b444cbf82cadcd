"""Prints how fast our whole loop is, as a part of the speed of a bare PyTorch loop and of others.

All train the same net, with one thread each. Ours runs beside each of the others in pairs, in turns
first and second, so that a machine which is busy, or was just made so, slows both alike.
Of ours everything is on: clipping, a running mean of the weights, a schedule, the finite check,
diagnostics every 50 steps, checkpoints as often as by default, progress, and a driver that asks
twenty times a second. The bare loop does nothing of the kind; all others, and a second loop in
plain torch, at least clip and keep the mean, by their own means where they have them, in their
shortest loops, fed a batch at a time. What the diagnostics cost is told by the steps that look,
beside those between them. Run it as a script.
"""

import logging
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from tests.benchmarks.alone import train_alone
from workers.gang.driver import POLL_SECONDS
from workers.gang.rank import Told

ROUNDS = 6  # of pairs; an even number, so that each is first as often as second
EPOCHS = 4
BATCH_SIZE = 128
NUM_SAMPLES = 12_800  # 100 steps an epoch
RATIO_MIN = 0.95  # of the bare loop
LOOK_EVERY = 50
SAVE_EVERY = 200  # the product's own default
LOOK_COST_MAX = 0.01  # of all steps' time
CLIP_NORM = 1.0
DECAY = 0.999
EVERYTHING = {
    "clip_norm": CLIP_NORM,
    "ema": DECAY,
    "on_non_finite": "skip",
    "diagnostics_every_steps": LOOK_EVERY,
    "schedule": {"name": "cosine", "warmup_epochs": 1.0},
}


class StepTimes(Told):
    """A rank's own listener, which notes when its steps were done."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def advance(self, step: int) -> None:
        super().advance(step)
        self.times.append(time.perf_counter())

    @property
    def rate(self) -> float:
        """Steps per second, from the end of the first to that of the last."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])

    def seconds(self, *, looked: bool) -> list[float]:
        """Of each step that looked into the layers, or of the others; the first is left out."""
        steps = np.diff(self.times)
        return [one for k, one in enumerate(steps, 1) if (k % LOOK_EVERY == 0) == looked]


class Average:
    """A running mean of a module's weights."""

    def __init__(self, module: nn.Module) -> None:
        self._weights = [parameter.detach() for parameter in module.parameters()]
        self._means = [weight.clone() for weight in self._weights]

    def follow(self) -> None:
        """Take in the weights of now."""
        torch._foreach_lerp_(self._means, self._weights, 1.0 - DECAY)


@contextmanager
def asked(listener: Told) -> Iterator[None]:
    """Within the block a driver asks the listener as often as it does in a gang."""
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.wait(POLL_SECONDS):
            listener.status(None).model_dump_json()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def ours(folder: Path) -> StepTimes:
    """Return the times of our steps."""
    listener = StepTimes()
    with asked(listener):
        _train(folder, listener)
    return listener


def _train(folder: Path, listener: StepTimes) -> None:
    train_alone(
        folder,
        listener,
        data={"source": "npz", "path": "data.npz", "test_fraction": 0.0},
        model={"kind": "mlp", "hidden": [512, 512]},
        training={
            "epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
            "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
            **EVERYTHING,
        },
        checkpoint={"every_steps": SAVE_EVERY},
    )


def net() -> nn.Module:
    """The same net."""
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    """The same optimizer, by torch's defaults; ours takes its fused kernels."""
    return torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)


def batches(x: Tensor, y: Tensor) -> "DataLoader[tuple[Tensor, ...]]":
    """The fastest way to feed such data through a DataLoader: a whole batch by one index."""
    data = TensorDataset(x, y)
    sampler = BatchSampler(RandomSampler(data), BATCH_SIZE, drop_last=True)
    return DataLoader(data, sampler=sampler, batch_size=None)


def bare(x: Tensor, y: Tensor) -> StepTimes:
    """Return the times of the shortest loop in plain torch, which only steps."""
    return _plain(x, y, clips_and_averages=False)


def by_hand(x: Tensor, y: Tensor) -> StepTimes:
    """Return the times of one that clips and keeps the mean."""
    return _plain(x, y, clips_and_averages=True)


def _plain(x: Tensor, y: Tensor, *, clips_and_averages: bool) -> StepTimes:
    module, times = net(), StepTimes()
    optimizer, average = sgd(module), Average(module)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(x)), BATCH_SIZE):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(module(x[rows]), y[rows]))
            if clips_and_averages:
                nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM)
            optimizer.step()
            if clips_and_averages:
                average.follow()
            times.advance(0)
    return times


def fabric(x: Tensor, y: Tensor) -> StepTimes:
    """Return the times of Lightning Fabric's shortest loop."""
    from lightning.fabric import Fabric

    runtime, times = Fabric(accelerator="cpu", devices=1), StepTimes()
    module, optimizer = runtime.setup(*_made())
    average = Average(module)
    loader = runtime.setup_dataloaders(batches(x, y))
    for x_B, y_B in _epochs(loader):
        optimizer.zero_grad()
        runtime.backward(nn.functional.cross_entropy(module(x_B), y_B))
        runtime.clip_gradients(module, optimizer, max_norm=CLIP_NORM)
        optimizer.step()
        average.follow()
        times.advance(0)
    return times


def accelerate(x: Tensor, y: Tensor) -> StepTimes:
    """Return the times of Accelerate's shortest loop."""
    from accelerate import Accelerator

    runtime, times = Accelerator(cpu=True), StepTimes()
    module, optimizer = runtime.prepare(*_made())
    average = Average(module)
    for x_B, y_B in _epochs(batches(x, y)):  # its own loader knows no whole batches
        optimizer.zero_grad()
        runtime.backward(nn.functional.cross_entropy(module(x_B), y_B))
        runtime.clip_grad_norm_(module.parameters(), CLIP_NORM)
        optimizer.step()
        average.follow()
        times.advance(0)
    return times


def lightning(x: Tensor, y: Tensor) -> StepTimes:
    """Return the times of Lightning's Trainer, without logs and checkpoints."""
    from lightning.pytorch import LightningModule, Trainer

    times = StepTimes()

    class Learner(LightningModule):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            super().__init__()
            self.net = net()
            self.average = Average(self.net)

        def training_step(self, batch: list[Tensor], number: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self.net)

        def on_train_batch_end(self, *_: Any) -> None:
            self.average.follow()
            times.advance(0)

    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        gradient_clip_val=CLIP_NORM,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Learner(), batches(x, y))
    return times


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
        pairs = _in_pairs(folder, torch.from_numpy(x), torch.from_numpy(y))
    for name, found in pairs.items():
        ratio = statistics.median(mine.rate / other.rate for mine, other in found)
        wanted = RATIO_MIN if name == "bare" else 1.0
        print(f"ours over {name}: {ratio:.3f}, at least {wanted} is wanted")
    all_of_ours = [mine for found in pairs.values() for mine, _ in found]
    looks, between = (
        statistics.median(one for times in all_of_ours for one in times.seconds(looked=looked))
        for looked in (True, False)
    )
    cost = (looks - between) / LOOK_EVERY / between
    print(f"diagnostics every {LOOK_EVERY} steps: {cost:.2%}; {LOOK_COST_MAX:.0%} is allowed")


def _in_pairs(folder: Path, x: Tensor, y: Tensor) -> dict[str, list[tuple[StepTimes, StepTimes]]]:
    """Our times and those of each other loop, once each round."""
    others: dict[str, Callable[[], StepTimes]] = {
        "bare": lambda: bare(x, y),
        "by hand": lambda: by_hand(x, y),
        "fabric": lambda: fabric(x, y),
        "accelerate": lambda: accelerate(x, y),
        "lightning": lambda: lightning(x, y),
    }
    for loop in (lambda: ours(folder), *others.values()):
        loop()
    pairs: dict[str, list[tuple[StepTimes, StepTimes]]] = {name: [] for name in others}
    for number in range(ROUNDS):
        for name, loop in others.items():
            if number % 2 == 0:
                mine, other = ours(folder), loop()
            else:
                other, mine = loop(), ours(folder)
            pairs[name].append((mine, other))
        told = (f"{name} {found[-1][1].rate:.0f}" for name, found in pairs.items())
        print(f"ours {pairs['bare'][-1][0].rate:.0f}  {'  '.join(told)} steps/s", flush=True)
    return pairs


if __name__ == "__main__":
    main()
