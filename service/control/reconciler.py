"""Gives up on what has been silent for too long; only the leader calls it.

Silence counts only while we could hear: from the last word, but not from before this leader's
election or the end of a gap in its own loop. A control plane that was itself away declares nobody
lost.
"""

from datetime import datetime, timedelta

from service.control import endings
from service.control.ports import Bus, FleetStore
from service.domain.asks import Leadership, Why
from service.domain.errors import Stale
from service.domain.job import AttemptMove, AttemptState
from service.domain.records import Attempt, Reason
from workers.contract.outcome import FailureKind, Outcome, Result

CLAIM_LIMIT = timedelta(seconds=120)  # from reserved to claimed
LOST_LIMIT = timedelta(seconds=300)  # a claimed attempt without a word and without proof
AGENT_LIMIT = timedelta(seconds=45)  # two long-polls and a bit
GAP = timedelta(seconds=5)  # a longer pause between two passes means that we were away
ACTOR = "reconciler"


class Reconciler:
    """One pass over everything that may have died without a word."""

    def __init__(self, store: FleetStore, bus: Bus, jitter: endings.Jitter) -> None:
        self._store = store
        self._bus = bus
        self._jitter = jitter
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
        for agent in self._store.agents():
            if not agent.is_silent and self._silence(agent.heard_at, now) > AGENT_LIMIT:
                with self._store.write(leader) as tx:
                    tx.set_agent_silent(agent.name)
                self._bus.wake("queue")
        for attempt in self._store.attempts_not_gone():
            try:
                self._check(attempt, now, leader)
            except Stale:
                continue  # it spoke just now; the next pass sees it as it is

    def _keep_sight(self, leader: Leadership, now: datetime) -> None:
        was_away = self._last_pass_at is None or now - self._last_pass_at > GAP
        if was_away or leader != self._term:
            self._seen_since = now
        self._term, self._last_pass_at = leader, now

    def _silence(self, last_word: datetime, now: datetime) -> timedelta:
        assert self._seen_since is not None
        return now - max(last_word, self._seen_since)

    def _check(self, attempt: Attempt, now: datetime, leader: Leadership) -> None:
        silence = self._silence(attempt.heard_at or attempt.reserved_at, now)
        if attempt.state is AttemptState.RESERVED and silence > CLAIM_LIMIT:
            sentence = f"no agent claimed it within {CLAIM_LIMIT.total_seconds():.0f} s"
            why = Why(ACTOR, Reason.NOT_CLAIMED, sentence)
            self._end(attempt, AttemptMove.BURY, FailureKind.AGENT_LOST, why, leader)
        elif attempt.is_open and attempt.outcome is None and silence > LOST_LIMIT:
            sentence = f"silent for {LOST_LIMIT.total_seconds():.0f} s, without proof of its end"
            why = Why(ACTOR, Reason.SILENT, sentence)
            self._end(attempt, AttemptMove.LOSE, FailureKind.LOST, why, leader)

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
        # Not recorded on a lost attempt: its own late word may still come, and counts.
        outcome = Outcome(result=Result.FAILED, failure=failure, message=why.message)
        with self._store.write(leader) as tx:
            tx.move_attempt(attempt, move, why, failure=failure)
            verdict = endings.judge(job, attempts, outcome, tx.now(), self._jitter())
            if verdict is not None:
                endings.apply(tx, job, verdict, ACTOR)
        self._bus.wake("queue")
        self._bus.wake(f"job/{attempt.job_id}")
        self._bus.wake(f"agent/{attempt.agent}")
