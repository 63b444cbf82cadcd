"""Traces the next steps of a training on request: where their time goes, operation by operation."""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from fsspec.core import url_to_fs

from workers.contract.launch import LaunchSpec
from workers.contract.paths import join, profile_file
from workers.contract.reports import PROFILE_FAILED, PROFILED, Noticed, ProfileOrder
from workers.telemetry.listener import Listener

if TYPE_CHECKING:  # loaded by those few attempts that are asked for a trace
    from torch.profiler import profile


class Profiling:
    """Carries out each order once; rank 0's listener alone ever has one.

    What goes wrong with a trace is told and does the training no harm.
    """

    def __init__(self, launch: LaunchSpec, listener: Listener) -> None:
        self._launch = launch
        self._listener = listener
        self._last_number = 0  # of the last order that was taken up
        self._order: ProfileOrder | None = None  # the one that is being carried out
        self._profiler: profile | None = None
        self._steps: list[int] = []

    def step(self, step: int) -> AbstractContextManager[object]:
        """Surround one optimizer step; `step` counts those of the whole job, this one included."""
        if self._order is None:
            order = self._listener.profile_order()
            if order is None or order.number <= self._last_number:
                return nullcontext()
            self._begin(order)
        return nullcontext() if self._order is None else self._traced(step)

    def close(self) -> None:
        """Write what there is of a trace when the training ends under it."""
        if self._order is not None:
            self._end()

    def _begin(self, order: ProfileOrder) -> None:
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            kinds.append(ProfilerActivity.CUDA)
        self._order, self._last_number, self._steps = order, order.number, []
        try:
            self._profiler = profile(activities=kinds)
            self._profiler.start()
        except RuntimeError as error:  # the user's own code may be tracing already
            self._order = self._profiler = None
            self._listener.tell(
                Noticed(code=PROFILE_FAILED, sentence=f"No trace could begin: {error}")
            )

    @contextmanager
    def _traced(self, step: int) -> Iterator[None]:
        with torch.profiler.record_function(f"step {step}"):
            yield
        self._steps.append(step)
        if self._order is not None and len(self._steps) >= self._order.steps:
            self._end()

    def _end(self) -> None:
        assert self._profiler is not None
        self._listener.phase("profile")
        try:
            self._profiler.stop()
            self._listener.tell(self._written(self._profiler))
        except Exception as error:  # noqa: BLE001  # any storage's own errors
            self._listener.tell(
                Noticed(code=PROFILE_FAILED, sentence=f"The trace is lost: {error}")
            )
        self._order = self._profiler = None
        self._listener.phase("train")

    def _written(self, profiler: "profile") -> Noticed:
        if not self._steps:
            return Noticed(code=PROFILE_FAILED, sentence="No step was whole before the end.")
        launch = self._launch
        name = profile_file(launch.job_id, launch.attempt, self._steps[0])
        url = join(launch.storage_url, name)
        files, path = url_to_fs(url)
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "trace.json.gz"  # by its name it is compressed
            profiler.export_chrome_trace(str(local))
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
            files.put_file(str(local), path)
        steps = f"Steps {self._steps[0]} to {self._steps[-1]} of rank 0"
        return Noticed(code=PROFILED, sentence=f"{steps}: {url}")
