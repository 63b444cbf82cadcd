"""Prints what a pretraining stage costs at depth 9, as a multiple of one at the bottom.

A net of 10 layers of 512 units on data of 512 features, so that every stage has the same shapes.
With the features of the frozen prefix kept in memory the cost is flat; without, it is shown for
comparison. Run it as a script.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.alone import Quiet, train_alone
from workers.contract.reports import FactBody, StageEnded

WIDTH = 512
NUM_SAMPLES = 6_400
ROUNDS = 3
RATIO_MAX = 1.15


class StageTimes(Quiet):
    """A listener that notes how long each stage took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def tell(self, fact: FactBody) -> None:
        if isinstance(fact, StageEnded):
            self.seconds.append(fact.seconds)


def stage_seconds(folder: Path, pretraining: dict[str, Any]) -> list[float]:
    """Return the seconds of every stage of one job."""
    listener = StageTimes()
    train_alone(
        folder,
        listener,
        data={"source": "npz", "path": "data.npz", "test_fraction": 0.0},
        model={
            "kind": "mlp",
            "hidden": [WIDTH] * 10,
            "activation": "sigmoid",
            "init": "xavier",
        },
        pretraining={"epochs": 2, "batch_size": 128, **pretraining},
        training={"epochs": 1, "batch_size": 128},
    )
    return listener.seconds


def main() -> None:
    """Print the ratios of stage 9 to stage 1, each from the least of some rounds."""
    generator = np.random.default_rng(0)
    x = generator.random((NUM_SAMPLES, WIDTH), dtype=np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "data.npz", x=x, y=generator.integers(0, 10, NUM_SAMPLES))
        stage_seconds(folder, {"method": "rbm"})  # imports, first touches of memory
        for method in ("rbm", "denoising_autoencoder"):
            for cache in ("memory", "none"):
                pretraining = {"method": method, "cache": cache}
                rounds = [stage_seconds(folder, pretraining) for _ in range(ROUNDS)]
                least = np.min(rounds, axis=0)
                ratio = least[8] / least[0]
                print(f"{method}, cache {cache}: stage 9 / stage 1 = {ratio:.2f}")
    print(f"with the cache at most {RATIO_MAX} is wanted")


if __name__ == "__main__":
    main()
