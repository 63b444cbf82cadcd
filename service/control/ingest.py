"""What gangs tell: facts become rows, once each, and only while their attempt may speak."""

from collections.abc import Sequence
from datetime import timedelta

from service.control import endings
from service.control.meters import CheckpointTrouble, Meters
from service.control.ports import Bus, JobStore, Writes
from service.domain.asks import Why
from service.domain.errors import Closed, Stale, Unreachable
from service.domain.job import AttemptMove, AttemptState, JobState
from service.domain.records import Attempt, Job, Reason
from workers.contract.outcome import FailureKind, Outcome, StopReason
from workers.contract.paths import checkpoint_folder
from workers.contract.reports import (
    CheckpointWritten,
    Ended,
    Evaluated,
    Fact,
    GangStarted,
    Noticed,
    Progress,
    Report,
    ReportAnswer,
    StageEnded,
    StageStarted,
    StopOrder,
    Unknown,
)

STALE_TRIES = 10  # as often as two writers can cross each other in a row before it is an error
STOP_GRACE = timedelta(seconds=60)
ACTOR = "gang"
TROUBLES = {  # by the code of a notice
    "checkpoint_failed": CheckpointTrouble.NOT_SAVED,
    "checkpoint_fallback": CheckpointTrouble.DAMAGED,
}


class Ingest:
    """The report door."""

    def __init__(self, store: JobStore, bus: Bus, jitter: endings.Jitter, meters: Meters) -> None:
        self._store = store
        self._bus = bus
        self._jitter = jitter
        self._meters = meters

    def report(self, attempt: Attempt, report: Report) -> ReportAnswer:
        """Keep what is new of a report, and answer with what the gang shall do.

        Raises:
            Closed: the attempt is over, or a newer one was reserved; its gang must end.
            Unreachable: others kept writing to the same rows; the gang tells it again.
        """
        for _ in range(STALE_TRIES):
            job, attempt = self._look(attempt)
            ends = any(isinstance(fact.body, Ended) for fact in report.facts)
            earlier = self._store.attempts(job.id)[:-1] if ends else []
            taking = _Taking(job, attempt, earlier, self._jitter())
            try:
                with self._store.write() as tx:
                    taking.take(tx, report)
                    order = _order(tx, taking.job, taking.attempt)
            except Stale:
                continue
            self._measure(taking, attempt)
            self._wake(taking, job)
            return ReportAnswer(held=taking.held, stop=order, profile=attempt.profile)
        raise Unreachable(f"attempt {attempt.number} of {attempt.job_id} moves too fast")

    def _look(self, attempt: Attempt) -> tuple[Job, Attempt]:
        job = self._store.job(attempt.job_id)
        now = self._store.attempt(attempt.job_id, attempt.number)
        if job is None or now is None or now.state is AttemptState.GONE:
            raise Closed(f"attempt {attempt.number} of {attempt.job_id} is over")
        if now.number != job.attempt:
            raise Closed(f"attempt {job.attempt} of {job.id} has taken over from {now.number}")
        return job, now

    def _measure(self, taking: "_Taking", before: Attempt) -> None:
        if before.started_at is None:
            self._meters.started(taking.attempt)
        if taking.verdict is not None:
            self._meters.judged(taking.job, taking.verdict)
        for trouble in taking.troubles:
            self._meters.checkpoint_failed(trouble)

    def _wake(self, taking: "_Taking", before: Job) -> None:
        if taking.has_news:
            self._bus.wake(f"job/{before.id}")
        if taking.job.state is not before.state or taking.attempt.outcome is not None:
            self._bus.wake("queue")
            self._bus.wake(f"agent/{taking.attempt.agent}")


class _Taking:
    """One report on its way into one transaction."""

    def __init__(
        self, job: Job, attempt: Attempt, earlier: Sequence[Attempt], jitter: float
    ) -> None:
        self._earlier = earlier  # read only where the report ends the attempt
        self._jitter = jitter
        self.job = job
        self.attempt = attempt
        self.held = attempt.held
        self.has_news = False
        self.verdict: endings.Verdict | None = None
        self.troubles: list[CheckpointTrouble] = []

    def take(self, tx: Writes, report: Report) -> None:
        """Keep the facts that are not held yet, in their order."""
        facts = sorted(report.facts, key=lambda fact: fact.seq)
        fresh = [fact for fact in facts if fact.seq > self.attempt.held]
        self.held = max([self.attempt.held, *(fact.seq for fact in fresh)])
        self.has_news = bool(fresh)
        tx.hold_facts(self.attempt, self.held)  # the fence: first, so that nothing passes it
        lines = [(fact.at, fact.body) for fact in fresh if isinstance(fact.body, Progress)]
        tx.add_measurements(self.job.id, self.attempt.number, lines)
        for fact in fresh:
            self._keep(tx, fact)

    def _keep(self, tx: Writes, fact: Fact) -> None:
        job_id, number = self.job.id, self.attempt.number
        match fact.body:
            case GangStarted():
                self._start(tx, fact.body)
            case StageStarted():
                tx.add_stage(job_id, number, fact.body)
            case Progress():
                pass  # a line, and kept with the others
            case StageEnded():
                tx.end_stage(job_id, number, fact.body)
            case CheckpointWritten():
                self._checkpoint(tx, fact, fact.body)
            case Evaluated():
                figures = ", ".join(f"{k} {v:.4g}" for k, v in fact.body.metrics.items())
                tx.notice(job_id, number, ACTOR, "evaluated", f"{fact.body.split}: {figures}")
            case Noticed():
                self._notice(tx, fact.body)
            case Ended():
                self._end(tx, fact.body.outcome)
            case Unknown():
                tx.notice(job_id, number, "service", "unknown_fact", fact.body.fact)

    def _notice(self, tx: Writes, noticed: Noticed) -> None:
        tx.notice(self.job.id, self.attempt.number, ACTOR, noticed.code, noticed.sentence)
        if noticed.code in TROUBLES:
            self.troubles.append(TROUBLES[noticed.code])

    def _checkpoint(self, tx: Writes, fact: Fact, written: CheckpointWritten) -> None:
        """Make it the current one; its path will be read and deleted, so it must be the job's."""
        job_id, number, ref = self.job.id, self.attempt.number, written.ref
        own = checkpoint_folder(job_id, ref.stage, ref.step, ref.attempt)
        if ref.path != own or "/" in ref.stage or ref.attempt > number:
            sentence = f"{ref.path!r} is no checkpoint of this attempt"
            tx.notice(job_id, number, "service", "checkpoint_refused", sentence)
            self.troubles.append(CheckpointTrouble.REFUSED)
        elif tx.add_checkpoint(job_id, written, fact.at):
            tx.mark_progress(job_id, number)
            policy = self.job.spec.checkpoint
            tx.ask_prune(job_id, policy.keep_last, policy.best.mode if policy.best else None)

    def _start(self, tx: Writes, fact: GangStarted) -> None:
        if self.attempt.state is not AttemptState.STARTING:
            return  # it was told to stop before it was up, or it is lost
        resumed = fact.resumed_from
        since = f", from {resumed.stage} step {resumed.step}" if resumed else ""
        why = Why(ACTOR, Reason.STARTED, f"{fact.world_size} ranks are up{since}")
        self.attempt = tx.move_attempt(self.attempt, AttemptMove.START, why)

    def _end(self, tx: Writes, outcome: Outcome) -> None:
        if self.attempt.outcome is not None:
            return  # the first last word counts
        if outcome.failure is FailureKind.STORAGE:
            self.troubles.append(CheckpointTrouble.STORAGE)
        why = Why(ACTOR, Reason.OUTCOME, outcome.message or outcome.result)
        if self.attempt.state in (AttemptState.STARTING, AttemptState.RUNNING):
            self.attempt = tx.move_attempt(
                self.attempt,
                AttemptMove.STOP,
                why,
                outcome=outcome,
                failure=outcome.failure,
                stop_reason=outcome.stop_reason,
            )
        else:
            self.attempt = tx.note_outcome(self.attempt, outcome)
        attempts = [*self._earlier, self.attempt]
        self.verdict = endings.judge(self.job, attempts, outcome, tx.now(), self._jitter)
        if self.verdict is not None:
            self.job = endings.apply(tx, self.job, self.verdict, ACTOR)


def _order(tx: Writes, job: Job, attempt: Attempt) -> StopOrder | None:
    """What the gang shall do: nothing new, or stop."""
    if attempt.outcome is not None:
        return None
    if attempt.state is AttemptState.LOST:
        return StopOrder(reason=StopReason.LOST, grace_seconds=STOP_GRACE.total_seconds())
    if job.state is JobState.STOPPING and job.stop_reason is not None:
        since = attempt.stop_at or tx.now()
        left = (since + STOP_GRACE - tx.now()).total_seconds()
        return StopOrder(reason=job.stop_reason, grace_seconds=max(1.0, left))
    return None
