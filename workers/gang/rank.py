"""One worker of a gang: trains in one thread, and answers its driver from another."""

import faulthandler
import importlib
import logging
import os
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from typing import Any

import ray

from workers.contract.launch import LaunchSpec
from workers.contract.outcome import CAUSE_LINES_MAX, FailureKind, Outcome, TrainingFailure
from workers.contract.reports import (
    CheckpointWritten,
    FactBody,
    Noticed,
    ProfileOrder,
    Progress,
    StopOrder,
)
from workers.contract.wire import Message
from workers.gang.log_chunks import LogChunks, capture
from workers.gang.orphan import OrphanWatch

TRAIN = "workers.training.run:train"
TOLD_MAX = 10_000  # facts that wait for the driver; it asks twenty times a second
CPU_MEMORY_WORDS = "DefaultCPUAllocator: can't allocate memory"  # torch has no class for it

log = logging.getLogger(__name__)


class RankStatus(Message):
    """What a rank answers to a poll."""

    phase: str  # "starting", "joining", then as the training names it
    step: int
    device: str
    facts: tuple[FactBody, ...] = ()


class RankEnd(Message):
    """How a rank's training ended: with an outcome, or with a failure."""

    outcome: Outcome | None = None
    failure: FailureKind | None = None
    exception: str = ""
    message: str = ""
    last_lines: tuple[str, ...] = ()


class Told:
    """The training's listener: keeps what it tells until the driver asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._facts: list[FactBody] = []
        self._order: StopOrder | None = None
        self._profile_order: ProfileOrder | None = None
        self.phase_name = "starting"
        self.step = 0
        self.device = ""

    def tell(self, fact: FactBody) -> None:
        """Keep a fact; progress is dropped where nobody has asked for long."""
        with self._lock:
            if isinstance(fact, Progress) and len(self._facts) >= TOLD_MAX:
                return
            self._facts.append(fact)
        log.info("%s", _line(fact))

    def advance(self, step: int) -> None:
        """Keep the step."""
        self.step = step

    def phase(self, name: str) -> None:
        """Keep the phase."""
        self.phase_name = name

    def stop_order(self) -> StopOrder | None:
        """The order to stop, once there is one."""
        return self._order

    def profile_order(self) -> ProfileOrder | None:
        """The newest order to trace steps."""
        return self._profile_order

    def status(self, order: StopOrder | None, profile: ProfileOrder | None = None) -> RankStatus:
        """Take orders, and give all that was told since the last call."""
        self._order = order or self._order
        self._profile_order = profile or self._profile_order
        with self._lock:
            facts, self._facts = tuple(self._facts), []
        return RankStatus(phase=self.phase_name, step=self.step, device=self.device, facts=facts)


class Rank:
    """The actor.

    `train` takes its thread for itself; the others are called in a group that has another one.
    """

    def __init__(self, launch_json: str, rank: int, entry: str) -> None:
        self._launch = LaunchSpec.model_validate_json(launch_json)
        self._rank = rank
        self._entry = entry
        self._told = Told()
        self._orphan_watch = OrphanWatch(_end_orphan)
        os.environ.update(self._launch.env)
        self._gpus = self._launch.ranks[rank].gpus
        if self._gpus == 0:  # Ray leaves those of the node in sight
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # torch takes a second to import: begin while the others are still being born.
        self._imported = _Later(lambda: _load(entry))

    def meeting_point(self) -> str:
        """Where the process group meets, if this is rank 0."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"tcp://{host}:{probe.getsockname()[1]}"

    def poll(self, order_json: str | None, profile_json: str | None = None) -> str:
        """Take orders, and say what is new."""
        self._orphan_watch.called()
        order = StopOrder.model_validate_json(order_json) if order_json else None
        profile = ProfileOrder.model_validate_json(profile_json) if profile_json else None
        return self._told.status(order, profile).model_dump_json()

    def stacks(self) -> tuple[str, ...]:
        """Where every thread of this process is."""
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            return tuple(file.read().splitlines()[-CAUSE_LINES_MAX:])

    def train(self, meeting_point: str) -> str:
        """Train to the end; a failure is a result too, so that it comes whole to the driver."""
        launch = self._launch
        chunks = capture(launch.storage_url, launch.job_id, launch.attempt, f"rank-{self._rank}")
        try:
            end = RankEnd(outcome=self._train(meeting_point))
        except BaseException as error:  # noqa: BLE001  # told to the owner, whatever it is
            end = failure_of(error)
            log.error("%s", "\n".join(end.last_lines))
        finally:
            self._told.phase("ended")
            _close(chunks)
        return end.model_dump_json()

    def _train(self, meeting_point: str) -> Outcome:
        from workers.parallel.mesh import join, leave

        train = self._imported.get()
        self._told.phase("joining")
        seat = join(self._rank, self._launch.world_size, meeting_point, self._gpus)
        self._told.device = str(seat.device)
        self._told.phase("joined")
        try:
            outcome: Outcome = train(self._launch, seat, self._told)
            return outcome
        finally:
            leave()


class _Later:
    """A value that a thread computes while something else goes on."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        self._compute = compute
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def get(self) -> Any:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._compute()
        except BaseException as error:  # noqa: BLE001  # raised where the value is asked for
            self._error = error


def _end_orphan() -> None:
    sys.stderr.write("the driver has fallen silent: this rank ends itself\n")
    os._exit(1)  # the training may hold any lock


def _load(entry: str) -> Callable[..., Outcome]:
    module, _, name = entry.partition(":")
    train: Callable[..., Outcome] = getattr(importlib.import_module(module), name)
    return train


def failure_of(error: BaseException) -> RankEnd:
    """An exception as the end of a rank: its kind, its text and its traceback."""
    text = _sendable("".join(traceback.format_exception(error))).rstrip().splitlines()
    return RankEnd(
        failure=_kind(error),
        exception=type(error).__name__,
        message=_sendable(str(error)) or type(error).__name__,
        last_lines=tuple(text[-CAUSE_LINES_MAX:]),
    )


def _sendable(text: str) -> str:
    """The text without halves of characters, such as a file's name may have: JSON has no such."""
    return text.encode(errors="replace").decode()


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, TrainingFailure):
        return error.kind
    is_torch_memory = (  # torch is not imported for this
        type(error).__name__ == "OutOfMemoryError" or CPU_MEMORY_WORDS in str(error)
    )
    if isinstance(error, MemoryError) or is_torch_memory:
        return FailureKind.OUT_OF_MEMORY
    if isinstance(error, ImportError):
        return FailureKind.CONFIG
    return FailureKind.USER_ERROR


def _line(fact: FactBody) -> str:
    """A fact as a line of the log."""
    if isinstance(fact, Progress):
        loss = "-" if fact.loss is None else f"{fact.loss:.5g}"
        return (
            f"stage {fact.stage_index + 1} epoch {fact.epoch} step {fact.step} loss {loss} "
            f"lr {fact.lr:.3g} {fact.samples_per_second:.0f} samples/s"
        )
    if isinstance(fact, CheckpointWritten):
        return (
            f"checkpoint {fact.ref.path}: {fact.bytes} bytes, saved in {fact.save_seconds:.2f} s, "
            f"waited for {fact.stall_seconds:.3f} s"
        )
    if isinstance(fact, Noticed):
        return f"{fact.code}: {fact.sentence}"
    values = fact.model_dump(mode="json", exclude={"fact"}, exclude_defaults=True)
    return f"{fact.fact}: {', '.join(_word(name, value) for name, value in values.items())}"


def _word(name: str, value: object) -> str:
    """A field of a fact, as in `loss 0.125`; those of a field that has fields stand for it."""
    if isinstance(value, dict):
        return ", ".join(_word(key, one) for key, one in value.items())
    return f"{name} {value:.5g}" if isinstance(value, float) else f"{name} {value}"


def _close(chunks: LogChunks) -> None:
    try:
        chunks.close()
    except Exception as error:  # noqa: BLE001  # a log that can't be closed is no failure
        log.warning("the log was not closed: %r", error)
