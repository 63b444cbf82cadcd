"""Attempts of which every rank notes the samples that it trains on, and how they look."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from tests.workers.training.attempts import Recorder, Run
from workers.contract.outcome import Outcome
from workers.parallel.mesh import Seat
from workers.stages.handover import Inputs

Seen = tuple[int, str]  # a sample's number, and a hash of how it looked


@dataclass(frozen=True)
class Noting(Run):
    """An attempt of which each rank notes its samples step by step, into a file of its own."""

    notes: Path = Path()

    def on(self, seat: Seat) -> tuple[Outcome, Recorder]:
        """Make it, as one rank."""
        seen: list[list[Seen]] = []
        rows = Inputs.rows

        def noted(inputs: Inputs, indices_B: Tensor, epoch: int) -> Tensor:
            x_B = rows(inputs, indices_B, epoch)
            looks = [hashlib.sha256(x.numpy().tobytes()).hexdigest() for x in x_B]
            seen.append(list(zip(indices_B.tolist(), looks, strict=True)))
            return x_B

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Inputs, "rows", noted)
            told = super().on(seat)
        self.notes.mkdir(exist_ok=True)
        (self.notes / f"{seat.rank}.json").write_text(json.dumps(seen))
        return told


def global_batches(notes: Path, world_size: int) -> list[list[Seen]]:
    """Put the ranks' parts of every step together, in the order of the ranks."""
    ranks = [json.loads((notes / f"{rank}.json").read_text()) for rank in range(world_size)]
    return [
        [(index, look) for part in parts for index, look in part]
        for parts in zip(*ranks, strict=True)
    ]
