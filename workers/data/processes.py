"""Reads samples ahead in processes of their own, so that decoding does not hold up training.

What is asked for is what was announced by `expect`, nearly always; all else is read in place. A
sample follows from its number and the epoch alone, so it is the same wherever it is read.

The processes come from a fork server, which never had threads: a rank has many, and a fork of it
could stop for ever at a lock. They end with the rank, even if that is killed, and the server ends
with the last of them. Letters: B samples of a batch.
"""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.contract.outcome import FailureKind, TrainingFailure
from workers.data.part import Around, Part

BATCHES_AHEAD = 2  # for each process: one that is ready, one that is in work
DIED = (
    "DataLoader worker (pid"  # how torch's sentence begins where a process is gone; a test pins it
)

Numbers = npt.NDArray[np.int64]


class ReaderDied(TrainingFailure):
    """A process that reads ahead is gone; the system ends those that take too much memory."""

    kind = FailureKind.WORKER_DIED


@dataclass(frozen=True)
class Prefetched(Around):
    """The samples of a part, read ahead by processes; the part itself stays on the CPU."""

    ahead: "ReadAhead"
    device: torch.device

    def digest(self) -> str:
        """Return that of the part."""
        return self.part.digest()

    def expect(self, batches: Iterator[Tensor], epoch: int) -> None:
        """Begin to read these; what was read ahead before is dropped."""
        self.ahead.begin(batches, epoch)

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return some samples, (B, ...).

        Raises:
            ReaderDied: a process is gone.
            TrainingFailure: what the part itself raises.
        """
        indices_B = indices_B.cpu()
        read_B = self.ahead.take(indices_B, epoch)
        return (self.part.rows(indices_B, epoch) if read_B is None else read_B).to(self.device)

    def labels(self, indices_B: Tensor) -> Tensor:
        """Return their labels, (B,)."""
        return self.part.labels(indices_B.cpu()).to(self.device)

    def passes(self) -> Iterator[Tensor]:
        """Yield all samples in order, some at a time, read in place."""
        for x_B in self.part.passes():
            yield x_B.to(self.device)

    def to(self, device: torch.device) -> "Prefetched":
        """Return the part with its samples on a device once they are read by the same processes."""
        return replace(self, device=device)

    def close(self) -> None:
        """End the processes; the next `expect` starts new ones."""
        self.ahead.close()


def prefetched(part: Part, num_processes: int) -> Prefetched:
    """Return a part on the CPU, read ahead; processes start with the first `expect`."""
    return Prefetched(part, ReadAhead(part, num_processes), torch.device("cpu"))


class ReadAhead:
    """Some processes and what they were told to read, in order.

    Args:
        part: the samples, on the CPU; each process has a copy.
        num_processes: at least 1.
    """

    def __init__(self, part: Part, num_processes: int) -> None:
        self._part = part
        self._num_processes = num_processes
        self._loader: Any = None
        self._results: Any = None
        self._batches: Iterator[Tensor] = iter(())
        self._epoch = 0
        self._asked: deque[Tensor] = deque()  # told to a process, and not yet taken

    def begin(self, batches: Iterator[Tensor], epoch: int) -> None:
        """Drop what was read, and read these batches of indices."""
        self._batches, self._epoch = batches, epoch
        self._asked.clear()
        if self._loader is None:
            self._loader = self._started()
        with _ReadersLive():
            self._results = iter(self._loader)

    def take(self, indices_B: Tensor, epoch: int) -> Tensor | None:
        """Return the next batch if it is this one, else None."""
        is_next = self._asked and epoch == self._epoch and torch.equal(self._asked[0], indices_B)
        if not is_next:
            return None
        self._asked.popleft()
        with _ReadersLive():
            read: Tensor | TrainingFailure = next(self._results)
        if isinstance(read, TrainingFailure):
            raise read
        return read

    def close(self) -> None:
        """End the processes; the loader does so when nobody holds it any more."""
        self._asked.clear()
        self._results = None
        self._loader = None

    def __iter__(self) -> Iterator[tuple[Numbers, int]]:
        """Yield what is to be read next; the loader takes no more than it may be ahead."""
        for batch_B in self._batches:
            indices_B = batch_B.cpu()
            self._asked.append(indices_B)
            yield indices_B.numpy(), self._epoch  # arrays travel by value, tensors as open files

    def _started(self) -> Any:
        from torch.utils.data import DataLoader

        context = multiprocessing.get_context("forkserver")
        # What is imported in the server is there in each process at once.
        context.set_forkserver_preload(["__main__", __name__])
        return DataLoader(
            _Reader(self._part),  # type: ignore[arg-type]  # it needs no more than __getitem__
            batch_size=None,
            sampler=self,
            num_workers=self._num_processes,
            prefetch_factor=BATCHES_AHEAD,
            persistent_workers=True,
            multiprocessing_context=context,
            worker_init_fn=_set_up_process,
            collate_fn=_as_it_is,
            # Else it would draw from the chance of the training, which then depended on `workers`.
            generator=torch.Generator(),
        )


@dataclass(frozen=True)
class _Reader:
    """What a process does: the rows of a batch, or the failure that they meet."""

    part: Part

    def __getitem__(self, batch: tuple[Numbers, int]) -> Tensor | TrainingFailure:
        indices, epoch = batch
        try:
            return self.part.rows(torch.from_numpy(indices), epoch)
        except TrainingFailure as failure:
            return failure  # as a value, or the loader would write its traceback into the sentence


def _set_up_process(_: int) -> None:
    torch.set_flush_denormal(True)  # as the ranks do: else the same sample had other bits
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Torch's own watch looks at the fork server, which lives as long as one of its processes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _as_it_is(read: Any) -> Any:
    return read


class _ReadersLive:
    """Says it in our words where one of the processes turns out to be gone."""

    def __enter__(self) -> None: ...

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if isinstance(error, RuntimeError) and str(error).startswith(DIED):
            raise ReaderDied(
                f"data.workers: a process that reads samples ahead is gone ({error}); if memory "
                "ran out, use fewer processes, smaller batches, or a larger /dev/shm"
            ) from error
