"""Gives up on what has been silent for too long; only the leader calls it.

Silence counts only while we could hear: from the last word, but not from before this leader's
election or the end of a gap in its own loop. A control plane that was itself away declares nobody
lost.
"""

from datetime import datetime, timedelta

from service.control import endings
from service.control.meters import Meters
from service.control.ports import Bus, FleetStore
from service.domain.asks import Leadership, Why
from service.domain.errors import Stale
from service.domain.job import AttemptMove, AttemptState
from service.domain.records import Attempt, Job, Reason
from workers.contract.outcome import FailureKind, Outcome, Result

CLAIM_LIMIT = timedelta(seconds=120)  # from reserved to claimed
START_LIMIT = CLAIM_LIMIT + timedelta(seconds=150)  # from reserved to the gang's first word
LOST_LIMIT = timedelta(seconds=300)  # a claimed attempt without a word and without proof
AGENT_LIMIT = timedelta(seconds=45)  # two long-polls and a bit
GAP = timedelta(seconds=5)  # a longer pause between two passes means that we were away
ACTOR = "reconciler"


class Reconciler:
    """One pass over everything that may have died without a word."""

    def __init__(self, store: FleetStore, bus: Bus, jitter: endings.Jitter, meters: Meters) -> None:
        self._store = store
        self._bus = bus
        self._jitter = jitter
        self._meters = meters
        self._term: Leadership | None = None
        self._seen_since: datetime | None = None
        self._last_pass_at: datetime | None = None

    def run(self, leader: Leadership) -> None:
        """Make one pass.

        Raises:
            NotLeader: another server leads.
        """
        now = self._store.now()
        self._keep_sight(leader, now)
        speaking = self._speaking_agents(now, leader)
        for attempt in self._store.attempts_not_gone():
            try:
                self._check(attempt, now, attempt.agent in speaking, leader)
            except Stale:
                continue  # it spoke just now; the next pass sees it as it is

    def _speaking_agents(self, now: datetime, leader: Leadership) -> frozenset[str]:
        """Find those that are silent now, and return the names of the others."""
        speaking = []
        for agent in self._store.agents():
            if self._silence(agent.heard_at, now) <= AGENT_LIMIT:
                speaking.append(agent.name)
            elif not agent.is_silent:
                with self._store.write(leader) as tx:
                    tx.set_agent_silent(agent.name)
                self._bus.wake("queue")
        return frozenset(speaking)

    def _keep_sight(self, leader: Leadership, now: datetime) -> None:
        was_away = self._last_pass_at is None or now - self._last_pass_at > GAP
        if was_away or leader != self._term:
            self._seen_since = now
        self._term, self._last_pass_at = leader, now

    def _silence(self, last_word: datetime, now: datetime) -> timedelta:
        assert self._seen_since is not None
        return now - max(last_word, self._seen_since)

    def _check(
        self, attempt: Attempt, now: datetime, agent_speaks: bool, leader: Leadership
    ) -> None:
        silence = self._silence(attempt.heard_at or attempt.reserved_at, now)
        if attempt.state is AttemptState.RESERVED:
            if silence > CLAIM_LIMIT:
                failure = FailureKind.START_TIMEOUT if agent_speaks else FailureKind.AGENT_LOST
                sentence = f"agent {attempt.agent} did not claim it within {_seconds(CLAIM_LIMIT)}"
                why = Why(ACTOR, Reason.NOT_CLAIMED, sentence)
                self._end(attempt, AttemptMove.BURY, failure, why, leader)
        elif not attempt.is_open:
            return
        elif silence > LOST_LIMIT:
            sentence = f"silent for {_seconds(LOST_LIMIT)}, without proof of its end"
            why = Why(ACTOR, Reason.SILENT, sentence)
            self._end(attempt, AttemptMove.LOSE, FailureKind.LOST, why, leader)
        elif agent_speaks and attempt.heard_at is None and silence > START_LIMIT:
            sentence = f"its gang said nothing for {_seconds(START_LIMIT)} since it was reserved"
            why = Why(ACTOR, Reason.START_TIMEOUT, sentence)
            self._end(attempt, AttemptMove.LOSE, FailureKind.START_TIMEOUT, why, leader)

    def _end(
        self,
        attempt: Attempt,
        move: AttemptMove,
        failure: FailureKind,
        why: Why,
        leader: Leadership,
    ) -> None:
        job = self._store.job(attempt.job_id)
        attempts = self._store.attempts(attempt.job_id)
        assert job is not None
        if attempt.outcome is not None:
            self._free_its_job(attempt, job, why, leader)
            return
        # Not recorded on a lost attempt: its own late word may still come, and counts.
        outcome = Outcome(result=Result.FAILED, failure=failure, message=why.message)
        with self._store.write(leader) as tx:
            tx.move_attempt(attempt, move, why, failure=failure)
            verdict = endings.judge(job, attempts, outcome, tx.now(), self._jitter())
            if verdict is not None:
                job = endings.apply(tx, job, verdict, ACTOR)
        if verdict is not None:
            self._meters.judged(job, verdict)
        self._wake(attempt)

    def _free_its_job(self, attempt: Attempt, job: Job, why: Why, leader: Leadership) -> None:
        """Its end is told but not proved: a job that goes on must not wait for a dead agent."""
        if job.is_final:
            return  # nobody waits: the agent's proof may take its time
        with self._store.write(leader) as tx:
            tx.move_attempt(attempt, AttemptMove.LOSE, why)
        self._wake(attempt)

    def _wake(self, attempt: Attempt) -> None:
        self._bus.wake("queue")
        self._bus.wake(f"job/{attempt.job_id}")
        self._bus.wake(f"agent/{attempt.agent}")


def _seconds(limit: timedelta) -> str:
    return f"{limit.total_seconds():.0f} s"
