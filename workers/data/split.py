"""Divides samples into two parts in which every class has the same share."""

import numpy as np
import numpy.typing as npt

from workers.data.seeds import derived_seed

Indices = npt.NDArray[np.int64]


def stratified(labels_N: Indices, fraction: float, seed: int, part: str) -> tuple[Indices, Indices]:
    """Return (kept, held out) as sorted indices; ceil(fraction * N) samples are held out.

    Each class gives its share rounded down; those with the largest remainders give one more.
    """
    num_held = int(np.ceil(fraction * len(labels_N) - 1e-9))  # 0.1 * 30 is a little more than 3
    _, counts = np.unique(labels_N, return_counts=True)
    shares = counts * (num_held / max(1, len(labels_N)))
    takes = np.floor(shares + 1e-9).astype(np.int64)
    by_remainder = np.argsort(takes - shares, kind="stable")
    takes[by_remainder[: num_held - int(takes.sum())]] += 1
    generator = np.random.default_rng(derived_seed(seed, "split", part))
    by_class = np.split(np.argsort(labels_N, kind="stable"), np.cumsum(counts))[:-1]
    held = [
        generator.permutation(numbers)[:take] for numbers, take in zip(by_class, takes, strict=True)
    ]
    held_out = np.sort(np.concatenate(held)) if held else np.empty(0, np.int64)
    kept = np.setdiff1d(np.arange(len(labels_N)), held_out, assume_unique=True)
    return kept, held_out
