"""Trains with one worker, in this process, for a listener that takes the times."""

import uuid
from pathlib import Path
from typing import Any

import torch

from workers.contract.launch import LaunchSpec, RankPlacement
from workers.contract.recipe import Recipe
from workers.contract.reports import FactBody
from workers.contract.wire import JobId
from workers.parallel.mesh import Seat
from workers.telemetry.listener import Listener
from workers.training.run import train


class Quiet:
    """A listener that does nothing, and orders nothing."""

    def tell(self, fact: FactBody) -> None:
        pass

    def advance(self, step: int) -> None:
        pass

    def phase(self, name: str) -> None:
        pass

    def stop_order(self) -> None:
        return None

    def profile_order(self) -> None:
        return None


def train_alone(folder: Path, listener: Listener, **parts: Any) -> None:
    """Train a recipe of these parts, which saves at its stages' ends only, beside its data."""
    recipe = Recipe.model_validate({"checkpoint": {"every_steps": 1_000_000}, **parts})
    launch = LaunchSpec(
        job_id=JobId(str(uuid.uuid4())),
        attempt=1,
        name="bench",
        recipe=recipe,
        ranks=(RankPlacement(rank=0, node_id="n", cpus=1, gpus=0),),
        storage_url=str(folder),
    )
    train(launch, Seat(0, 1, torch.device("cpu")), listener)
