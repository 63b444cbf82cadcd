"""Prints how long training waits for a checkpoint of 200 MB: in the background, and waited for.

A state as a net of 50 MB and its Adam state would have, on a local disk. Both ways take turns in
one run; between a save's beginning and the next optimizer step lies a backward pass, as it would in
training. The first save of each way (imports, first touches of memory) is left out. Run it as a
script.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from workers.checkpoint.background import BackgroundSaves
from workers.checkpoint.writer import CheckpointWriter, SavePoint
from workers.contract.wire import JobId

STATE_BYTES = 200_000_000
NUM_TENSORS = 48
ROUNDS = 7
STALL_RATIO_MAX = 0.1


def state() -> dict[str, torch.Tensor]:
    """Return tensors of 200 MB in all, every page touched."""
    size = STATE_BYTES // 4 // NUM_TENSORS
    return {f"tensor-{k}": torch.rand(size) for k in range(NUM_TENSORS)}


def point(step: int) -> SavePoint:
    """Return what is saved beside the tensors."""
    return SavePoint(0, "finetune", step, {"step": step}, {"rng": torch.get_rng_state()})


def pass_backward(weight_HH: torch.Tensor, x_BH: torch.Tensor) -> None:
    """Take about as long as a small step does."""
    torch.mm(torch.mm(x_BH, weight_HH), weight_HH.t())


def rounds(folder: Path) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds of waited-for saves, and the stalls and seconds of background ones."""
    writer = CheckpointWriter(str(folder), JobId("bench"), 1, 0, 1)
    saves = BackgroundSaves(writer)
    tensors: dict[str, Any] = state()
    weight_HH, x_BH = torch.rand(1024, 1024), torch.rand(1024, 1024)
    waited, stalls, background = [], [], []
    for k in range(ROUNDS + 1):
        written = writer.save(point(2 * k), tensors)
        assert written is not None
        waited.append(written.save_seconds)
        saves.begin(point(2 * k + 1), tensors, time.perf_counter())
        pass_backward(weight_HH, x_BH)
        saves.wait_staged()
        while (landed := saves.poll()) is None:  # training goes on meanwhile
            pass_backward(weight_HH, x_BH)
        stalls.append(landed.stall_seconds)
        background.append(landed.save_seconds)
    saves.close()
    return waited[1:], stalls[1:], background[1:]


def main() -> None:
    """Print the medians, and the ratio of stall to waited-for save."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        waited, stalls, background = rounds(Path(name))
    stall, whole = statistics.median(stalls), statistics.median(waited)
    print(f"waited for: {whole:.3f} s a save")
    print(f"in the background: {statistics.median(background):.3f} s, stall {stall:.4f} s")
    print(f"stall / waited-for save = {stall / whole:.3f}, at most {STALL_RATIO_MAX} is wanted")


if __name__ == "__main__":
    main()
