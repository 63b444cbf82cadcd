"""A training that does nothing but count steps together, and go wrong where it is told to."""

import os
import threading
from pathlib import Path

import torch
import torch.distributed as dist

from workers.contract.launch import LaunchSpec
from workers.contract.outcome import Outcome, Result, StopReason
from workers.contract.paths import attempt_folder
from workers.contract.reports import Evaluated, Noticed
from workers.parallel.mesh import Seat
from workers.telemetry.listener import Listener

REASONS = list(StopReason)
GO = len(REASONS) + 1  # the mark that says: come to an end
STEP_SECONDS = 0.01
LAST_STEP = 1_000_000
SHORT_STEPS = 10
BAD_STEP = 5  # where the last rank goes wrong, if it is to


def folder_of(launch: LaunchSpec) -> Path:
    """Where the test and its ranks leave files for each other."""
    return Path(launch.storage_url) / attempt_folder(launch.job_id, launch.attempt) / "steer"


def train(launch: LaunchSpec, seat: Seat, listener: Listener) -> Outcome:
    """Count until the file `go` is there, or until an order comes; `MODE` says what goes wrong."""
    mode = launch.env.get("MODE", "")
    folder = folder_of(launch)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank-{seat.rank}").write_text(str(os.getpid()))
    if seat.is_first:
        listener.tell(Noticed(code="resume", sentence=" ".join(ref.path for ref in launch.resume)))
    listener.phase("train")
    last_step = SHORT_STEPS if mode == "short" else LAST_STEP
    for step in range(1, last_step + 1):
        if seat.rank == seat.world_size - 1 and step == BAD_STEP:
            _go_wrong(mode)
        mark = _agreed(folder, listener)
        listener.advance(step)
        if mark == GO:
            break
        if mark > 0:
            return Outcome(result=Result.STOPPED, stop_reason=REASONS[mark - 1])
        if seat.is_first and step % 10 == 0:
            listener.tell(Noticed(code="counted", sentence=str(step)))
        threading.Event().wait(STEP_SECONDS)
    if seat.is_first:
        listener.tell(Evaluated(stage_index=0, step=1, split="test", metrics={"error": 1.0}))
    return Outcome(result=Result.SUCCEEDED, metrics={"test_error": 1.0})


def _agreed(folder: Path, listener: Listener) -> int:
    """0, GO, or a reason to stop: the same on every rank."""
    order = listener.stop_order()
    mark = 0 if order is None else 1 + REASONS.index(order.reason)
    if (folder / "go").exists():
        mark = GO
    marks = torch.tensor([mark])
    dist.all_reduce(marks, op=dist.ReduceOp.MAX)
    return int(marks)


def _go_wrong(mode: str) -> None:
    if mode == "raise":
        raise ValueError("no such column: 7")
    if mode == "hang":
        threading.Event().wait()
