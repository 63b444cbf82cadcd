"""How the net that is fine-tuned lies in memory: what is recomputed, what is spread over ranks."""

import os
import shutil

from workers.contract.outcome import ConfigFailure
from workers.contract.training_spec import TrainingSpec
from workers.models.layered import Layered
from workers.parallel.mesh import Seat


def lay_out(net: Layered, training: TrainingSpec, seat: Seat) -> None:
    """Change the net in place as the recipe says; names and values stay as they are.

    Raises:
        ConfigFailure: a rank's part of a batch is smaller than its number of micro-batches; or
            there is nothing to compile with.
    """
    samples = training.batch_size // seat.world_size
    if samples < training.accumulate:
        raise ConfigFailure(
            f"training.accumulate: {samples} samples of a worker can't be split in "
            f"{training.accumulate}; lower it, or raise training.batch_size"
        )
    if training.compile and not _has_compiler():
        raise ConfigFailure(
            "training.compile: needs a C++ compiler (g++ or clang++) on the workers; install one "
            "there, or remove it"
        )
    if training.activation_checkpointing:
        from workers.parallel.recompute import recompute_layers  # only where it is used

        recompute_layers(net)
    if training.parallel == "fsdp" and not seat.is_alone:
        from workers.parallel.sharding import shard

        shard(net, seat)


def _has_compiler() -> bool:
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else ["g++", "clang++"]))
