"""Prints how much faster training on pictures is with two processes that decode ahead.

The net is small and the pictures have the size of ImageNet's, so decoding is nearly all there is to
do. Both ways run in turns, and so do one and two bare processes that only decode: what the second
one brings there is all that the machine has to give at that moment. Run it as a script.
"""

import io
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from tests.benchmarks.alone import Quiet, train_alone

ROUNDS = 3
EPOCHS = 3
BATCH_SIZE = 32
NUM_PICTURES = 768  # 24 steps an epoch
HEIGHT, WIDTH = 375, 500
SIDE = 64
PROCESSES = 2
BARE_SECONDS = 2.0
SHARE_MIN = 0.75  # of the ratio of the bare ones; the rank needs some of the cores too


class EpochTimes(Quiet):
    """A listener that notes when each epoch was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def advance(self, step: int) -> None:
        if step % (NUM_PICTURES // BATCH_SIZE) == 0:
            self.times.append(time.perf_counter())


def write_pictures(folder: Path) -> None:
    """Write JPEGs of soft noise, which compress about as photographs do."""
    generator = np.random.default_rng(0)
    for k in range(NUM_PICTURES):
        coarse = generator.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        file = folder / "pictures" / f"class-{k % 4}" / f"{k:04}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, quality=90)


def samples_per_second(folder: Path, workers: int) -> float:
    """Return the speed of training from the end of the first epoch on: all are at work by then."""
    listener = EpochTimes()
    train_alone(
        folder,
        listener,
        data={
            "source": "image_folder",
            "path": "pictures",
            "size": SIDE,
            "test_fraction": 0.0,
            "augment": {"crop_padding": 4, "flip": 0.5},
            "workers": workers,
        },
        model={"kind": "mlp", "hidden": [64]},
        training={"epochs": EPOCHS, "batch_size": BATCH_SIZE},
    )
    return (EPOCHS - 1) * NUM_PICTURES / (listener.times[-1] - listener.times[0])


def bare_per_second(folder: Path, processes: int) -> float:
    """Return how many pictures a second bare processes decode together."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        pool.map(_decode, [(folder, 0.1)] * processes, chunksize=1)  # all are there by then
        return sum(pool.map(_decode, [(folder, BARE_SECONDS)] * processes, chunksize=1))


def _decode(task: tuple[Path, float]) -> float:
    folder, seconds = task
    contents = [file.read_bytes() for file in sorted(folder.rglob("*.jpg"))[:BATCH_SIZE]]
    num, started_at = 0, time.perf_counter()
    while time.perf_counter() < started_at + seconds:
        picture = Image.open(io.BytesIO(contents[num % len(contents)])).convert("RGB")
        ImageOps.fit(picture, (SIDE, SIDE), Image.Resampling.BILINEAR)
        num += 1
    return num / seconds


def main() -> None:
    """Run all in turns and print the medians of the ratio, and of its share of the bare one."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder)
        ratios, shares = [], []
        for _ in range(ROUNDS):
            alone, ahead = (samples_per_second(folder, n) for n in (0, PROCESSES))
            one, two = (bare_per_second(folder, n) for n in (1, PROCESSES))
            ratios.append(ahead / alone)
            shares.append(ratios[-1] / (two / one))
            print(
                f"in place {alone:6.1f}/s  {PROCESSES} processes {ahead:6.1f}/s  "
                f"ratio {ratios[-1]:.2f}  (bare {one:6.1f}/s, {two:6.1f}/s: {two / one:.2f})"
            )
    print(f"median ratio {np.median(ratios):.2f}")
    print(f"median share {np.median(shares):.2f}, at least {SHARE_MIN} is wanted")


if __name__ == "__main__":
    main()
