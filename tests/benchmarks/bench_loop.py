"""Prints how fast our whole loop is, as a part of the speed of a bare PyTorch loop.

Everything of ours is on: diagnostics every 50 steps, the finite check, progress, the listener. The
two run in turns, one thread each, so that a busy machine slows both alike. Run it as a script.
"""

import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import torch
from torch import nn

from workers.contract.launch import LaunchSpec, RankPlacement
from workers.contract.recipe import Recipe
from workers.contract.reports import FactBody, StopOrder
from workers.contract.wire import JobId
from workers.parallel.mesh import Seat
from workers.training.run import train

ROUNDS = 7
EPOCHS = 3
BATCH_SIZE = 128
NUM_SAMPLES = 12_800  # 100 steps an epoch
RATIO_MIN = 0.95


class StepTimes:
    """A listener that notes when the first and the last step were done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def tell(self, fact: FactBody) -> None:
        pass

    def advance(self, step: int) -> None:
        self.times.append(time.perf_counter())

    def phase(self, name: str) -> None:
        pass

    def stop_order(self) -> StopOrder | None:
        return None


def ours(folder: Path) -> float:
    """Return the steps per second of our loop, from its first step to its last."""
    recipe = Recipe.model_validate(
        {
            "data": {"source": "npz", "path": "data.npz", "test_fraction": 0.0},
            "model": {"kind": "mlp", "hidden": [512, 512]},
            "training": {
                "epochs": EPOCHS,
                "batch_size": BATCH_SIZE,
                "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
            },
            "checkpoint": {"every_steps": 1_000_000},
        }
    )
    launch = LaunchSpec(
        job_id=JobId(str(uuid.uuid4())),
        attempt=1,
        name="bench",
        recipe=recipe,
        ranks=(RankPlacement(rank=0, node_id="n", cpus=1, gpus=0),),
        storage_url=str(folder),
    )
    listener = StepTimes()
    train(launch, Seat(0, 1, torch.device("cpu")), listener)
    return (len(listener.times) - 1) / (listener.times[-1] - listener.times[0])


def bare(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the steps per second of the shortest loop that trains the same net."""
    net = nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    steps, started_at = 0, 0.0
    for _ in range(EPOCHS):
        order = torch.randperm(len(x))
        for rows in torch.split(order, BATCH_SIZE):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            torch.autograd.backward(loss)
            optimizer.step()
            steps += 1
            started_at = started_at or time.perf_counter()
    return (steps - 1) / (time.perf_counter() - started_at)


def main() -> None:
    """Run both in turns and print the median of the ratios."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    x = generator.random((NUM_SAMPLES, 784), dtype=np.float32)
    y = generator.integers(0, 10, NUM_SAMPLES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "data.npz", x=x, y=y)
        x_bare, y_bare = torch.from_numpy(x), torch.from_numpy(y)
        bare(x_bare, y_bare)
        ratios = []
        for _ in range(ROUNDS):
            our_rate, bare_rate = ours(folder), bare(x_bare, y_bare)
            ratios.append(our_rate / bare_rate)
            print(f"ours {our_rate:7.1f}/s  bare {bare_rate:7.1f}/s  ratio {ratios[-1]:.3f}")
    print(f"median ratio {np.median(ratios):.3f}, at least {RATIO_MIN} is wanted")


if __name__ == "__main__":
    main()
