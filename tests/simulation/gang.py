"""A simulated gang: it speaks the contract, trains in seconds, and dies in every way we know."""

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from service.domain.errors import Closed, Refusal
from service.domain.records import Attempt
from tests.simulation.wire import Lost, Wire
from workers.contract.launch import LaunchSpec
from workers.contract.outcome import FailureKind, Outcome, Result, StopReason
from workers.contract.paths import checkpoint_folder
from workers.contract.reports import (
    CheckpointRef,
    CheckpointWritten,
    Ended,
    Fact,
    FactBody,
    GangStarted,
    Progress,
    Report,
    ReportAnswer,
    StageEnded,
    StageKind,
    StageStarted,
    StopOrder,
)
from workers.contract.wire import JobId

CHECKPOINT_EVERY = 6  # steps
FACTS_SENT_MAX = 20  # so that a gang that was cut off needs several reports to catch up
STAGE = "finetune"


@dataclass
class Disk:
    """Shared storage: what stands there, whoever wrote it."""

    checkpoints: dict[str, str] = field(default_factory=dict)  # path -> sha256 of the manifest
    facts: dict[tuple[JobId, int], list[FactBody]] = field(default_factory=dict)


class Gang:
    """One driver and its ranks; alive until it has ended or somebody ended it."""

    def __init__(
        self,
        launch: LaunchSpec,
        disk: Disk,
        rng: random.Random,
        fired: Counter[str],
        num_steps: int,
    ) -> None:
        self.job_id, self.attempt = launch.job_id, launch.attempt
        self.nodes = {rank.node_id for rank in launch.ranks}
        self.is_alive = True
        self.frozen_until = 0.0  # it neither trains nor speaks, and wakes up as if nothing were
        self.cut_until = 0.0  # it trains, but nobody hears it
        self._is_liar = False
        self._disk, self._rng, self._fired = disk, rng, fired
        self._num_steps = num_steps
        self._world_size = launch.world_size
        self._resume = launch.resume[0] if launch.resume else None
        self._step = self._resume.step if self._resume else 0
        self._born_at: float | None = None
        self._starts_in = rng.choice([2, 4, 10])
        self._seq = 0
        self._unsent: list[Fact] = []
        self._has_ended = False
        self._on_disk: list[FactBody] = disk.facts.setdefault((self.job_id, self.attempt), [])

    @property
    def key(self) -> tuple[JobId, int]:
        return self.job_id, self.attempt

    def live(self, now: float, at: datetime) -> None:
        """Train a little."""
        if not self.is_alive or now < self.frozen_until or self._has_ended:
            return
        if self._born_at is None:
            self._born_at = now
        if now < self._born_at + self._starts_in:
            return
        if self._seq == 0:
            self._begin(at)
            return
        self._step += 1
        self._say(self._progress(), at)
        if self._step % CHECKPOINT_EVERY == 0:
            self._save(at)
        if self._step >= self._num_steps:
            self._finish(at)

    def fail(self, failure: FailureKind, at: datetime) -> None:
        """An exception in the recipe's code, or the like."""
        if self._seq and not self._has_ended:
            self._end(Outcome(result=Result.FAILED, failure=failure, message="it failed"), at)

    def die(self) -> None:
        """Without a word."""
        self.is_alive = False

    def lie(self, at: datetime) -> None:
        """Tell of a stranger's checkpoint now, and a second last word later."""
        self._is_liar = True
        path = checkpoint_folder(JobId("somebody-elses"), STAGE, 10**6, 1)
        ref = CheckpointRef(
            path=path, manifest_sha256="", stage_index=0, stage=STAGE, step=10**6, attempt=1
        )
        self._say(
            CheckpointWritten(ref=ref, bytes=1, files=1, save_seconds=0.0, stall_seconds=0.0), at
        )

    def speak(self, wire: Wire, attempt: Attempt, now: float, at: datetime) -> None:
        """Report, and do what the answer says."""
        if (
            not self.is_alive
            or now < max(self.frozen_until, self.cut_until)
            or self._born_at is None
        ):
            return
        facts = tuple(self._unsent[:FACTS_SENT_MAX])
        try:
            answer = wire.report(attempt, Report(facts=facts))
        except Closed:
            self.is_alive = False
            self._fired["stale gang told to end"] += 1
        except (Lost, Refusal):
            return
        else:
            self._hear(answer, at)

    def _hear(self, answer: ReportAnswer, at: datetime) -> None:
        self._unsent = [fact for fact in self._unsent if fact.seq > answer.held]
        if self._has_ended and not self._unsent:
            self.is_alive = False  # its last word is held: the driver may go
        elif answer.stop is not None and not self._has_ended:
            self._fired[f"gang told to stop: {answer.stop.reason}"] += 1
            self._stop(answer.stop, at)

    def _begin(self, at: datetime) -> None:
        self._say(GangStarted(world_size=self._world_size, resumed_from=self._resume), at)
        # A predecessor may have told things that the service never heard.
        for number in range(1, self.attempt):
            for body in self._disk.facts.get((self.job_id, number), []):
                if isinstance(body, CheckpointWritten) and body.ref.step >= self._step:
                    if body.ref.path in self._disk.checkpoints:
                        self._say(body, at)
                        self._step = body.ref.step
                elif isinstance(body, Ended) and body.outcome.result is Result.SUCCEEDED:
                    self._fired["success adopted from a predecessor"] += 1
                    self._end(body.outcome, at)
                    return
        self._say(
            StageStarted(
                index=0,
                count=1,
                name=STAGE,
                kind=StageKind.FINETUNE,
                epochs=1,
                steps_per_epoch=self._num_steps,
            ),
            at,
        )

    def _finish(self, at: datetime) -> None:
        if self._step % CHECKPOINT_EVERY:
            self._save(at)
        end = StageEnded(
            index=0,
            name=STAGE,
            kind=StageKind.FINETUNE,
            epochs=1,
            steps=self._num_steps,
            loss_first=1.0,
            loss_last=0.1,
            seconds=1.0,
        )
        self._say(end, at)
        self._end(Outcome(result=Result.SUCCEEDED, metrics={"test_error": 1.0}), at)

    def _stop(self, order: StopOrder, at: datetime) -> None:
        if order.reason is not StopReason.LOST and self._step % CHECKPOINT_EVERY:
            self._save(at)
        self._end(Outcome(result=Result.STOPPED, stop_reason=order.reason), at)

    def _save(self, at: datetime) -> None:
        path = checkpoint_folder(self.job_id, STAGE, self._step, self.attempt)
        sha256 = f"{self._rng.getrandbits(256):064x}"
        self._disk.checkpoints[path] = sha256
        ref = CheckpointRef(
            path=path,
            manifest_sha256=sha256,
            stage_index=0,
            stage=STAGE,
            step=self._step,
            attempt=self.attempt,
        )
        fact = CheckpointWritten(ref=ref, bytes=1, files=1, save_seconds=0.0, stall_seconds=0.0)
        self._on_disk.append(fact)  # before it is sent
        self._say(fact, at)

    def _end(self, outcome: Outcome, at: datetime) -> None:
        self._on_disk.append(Ended(outcome=outcome))
        self._say(Ended(outcome=outcome), at)
        self._has_ended = True
        if self._is_liar:
            self._say(Ended(outcome=Outcome(result=Result.SUCCEEDED)), at)

    def _say(self, body: FactBody, at: datetime) -> None:
        self._seq += 1 + self._rng.choice([0, 0, 0, 2])  # metrics may be dropped: gaps
        self._unsent.append(Fact(seq=self._seq, at=at, body=body))

    def _progress(self) -> Progress:
        return Progress(
            stage_index=0,
            epoch=0,
            stage_step=self._step,
            step=self._step,
            loss=1.0,
            lr=0.1,
            samples=self._step,
            samples_per_second=1.0,
            step_seconds=1.0,
            data_wait_seconds=0.0,
            eta_seconds=None,
        )
