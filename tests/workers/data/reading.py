"""Parts that tests have read in other processes; in a module of their own, to be found there."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from workers.contract.outcome import ConfigFailure
from workers.data.part import Around, InMemory
from workers.data.processes import prefetched

NUM = 60


@dataclass(frozen=True)
class Telling(Around):
    """Samples that say in which process they were read, and in which epoch."""

    def digest(self) -> str:
        return "telling"

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        told_B = torch.tensor([float(os.getpid()), float(epoch)])
        return torch.cat([told_B.expand(len(indices_B), 2), indices_B[:, None].float()], 1)

    def passes(self) -> Iterator[Tensor]:
        yield self.rows(torch.arange(len(self)), 0)


@dataclass(frozen=True)
class Failing(Telling):
    """Sample 20 is damaged; sample 30 ends its process, as the system does without memory."""

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        if 20 in indices_B:
            raise ConfigFailure("data.path: picture 20 is damaged")
        if 30 in indices_B:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().rows(indices_B, epoch)


def memory() -> InMemory:
    """Something to stand around."""
    return InMemory(torch.zeros(NUM, 3), torch.arange(NUM))


def orphans() -> set[str]:
    """Pieces of torch's shared memory, torch_<pid>_..., whose process is gone."""
    found = (path.name for path in Path("/dev/shm").glob("torch_*"))
    return {name for name in found if not psutil.pid_exists(int(name.split("_")[1]))}


def read_and_wait(pipe: Any) -> None:
    """Read with two processes, tell their ids and their server's, and wait to be killed."""
    part = prefetched(Telling(memory()), 2)
    batches = list(torch.split(torch.arange(NUM), 10))
    part.expect(iter(batches), 0)
    pids = {int(part.rows(rows_B, 0)[0, 0]) for rows_B in batches[:4]}
    pipe.send(pids | {psutil.Process(pid).ppid() for pid in pids})
    pipe.recv()
