"""What agents tell and are told: which gangs should exist, who takes one, and which are gone."""

import hashlib
from datetime import timedelta

from service.control import endings
from service.control.ingest import STALE_TRIES, STOP_GRACE
from service.control.meters import Meters
from service.control.ports import Bus, FleetStore
from service.domain.asks import Why
from service.domain.errors import Closed, Conflict, NotFound, Stale
from service.domain.job import AttemptMove, AttemptState
from service.domain.records import Attempt, Reason
from workers.contract.inventory import (
    GangSeen,
    GangState,
    GangStop,
    GangWanted,
    Sync,
    SyncAnswer,
)
from workers.contract.launch import Claim, Deadlines, LaunchSpec, RankPlacement
from workers.contract.outcome import FailureKind, Outcome, Result, StopReason

PRUNE_MAX = 50  # deletions asked for in one answer, so that an agent's sync stays short
RESUME_MAX = 5  # checkpoints that a gang may fall back to
RAYLET_GRACE = timedelta(seconds=60)
"""How long a node that is cut off from its cluster may go on before it ends itself."""


class Fleet:
    """The agents' door."""

    def __init__(
        self,
        store: FleetStore,
        bus: Bus,
        *,
        storage_url: str,
        data_roots: tuple[str, ...],
        jitter: endings.Jitter,
        meters: Meters,
    ) -> None:
        self._store = store
        self._bus = bus
        self._storage_url = storage_url
        self._data_roots = data_roots
        self._jitter = jitter
        self._meters = meters

    def sync(self, name: str, sync: Sync) -> SyncAnswer:
        """Take an agent's word, and answer with what should be so.

        Raises:
            Conflict: a newer agent, or another cluster's, has this name.
        """
        with self._store.write() as tx:
            revision = tx.see_agent(name, sync.cluster_id, sync.boot_id, sync.nodes)
            if sync.pruned:
                tx.mark_pruned(name, sync.pruned)
        if not sync.known:  # an agent's first word brings nodes
            self._bus.wake("queue")
        nodes = frozenset(node.node_id for node in sync.nodes)
        for gang in sync.gangs:
            if gang.state in (GangState.ABSENT, GangState.UNBORN):
                self._absent(name, gang, nodes)
        return self._answer(name, revision)

    def _answer(self, name: str, revision: int) -> SyncAnswer:
        now = self._store.now()
        wanted, stops = [], []
        for attempt in self._store.attempts_of_agent(name):
            is_unclaimed = attempt.state is AttemptState.RESERVED
            wanted.append(
                GangWanted(job_id=attempt.job_id, attempt=attempt.number, unclaimed=is_unclaimed)
            )
            is_overdue = attempt.stop_at is not None and now > attempt.stop_at + STOP_GRACE
            if attempt.state is AttemptState.LOST or is_overdue:
                reason = attempt.stop_reason or StopReason.LOST
                stops.append(GangStop(job_id=attempt.job_id, attempt=attempt.number, reason=reason))
        answer = SyncAnswer(
            revision=0,
            fingerprint="",
            gangs=tuple(wanted),
            stops=tuple(stops),
            prune=tuple(self._store.to_prune(name, PRUNE_MAX)),
        )
        fingerprint = hashlib.sha256(answer.model_dump_json().encode()).hexdigest()
        return answer.model_copy(update={"revision": revision, "fingerprint": fingerprint})

    def _absent(self, name: str, gang: GangSeen, nodes: frozenset[str]) -> None:
        """Bury an attempt of which nothing lives, and let its job go on."""
        for _ in range(STALE_TRIES):
            attempt = self._store.attempt(gang.job_id, gang.attempt)
            if attempt is None or attempt.agent != name or attempt.token_sha256 is None:
                return  # not this agent's, or nobody has claimed it
            if attempt.state is AttemptState.GONE:
                return
            if gang.state is GangState.ABSENT and not self._is_proof(attempt, nodes):
                return
            try:
                self._bury(attempt, gang, nodes)
            except Stale:
                continue
            self._bus.wake("queue")
            self._bus.wake(f"job/{attempt.job_id}")
            return

    def _is_proof(self, attempt: Attempt, nodes: frozenset[str]) -> bool:
        """Whether an agent that sees nothing of the gang proves that there is nothing.

        On a node that left the cluster a cut-off rank may live on for a while.
        """
        if all(rank.node_id in nodes for rank in attempt.ranks):
            return True
        last_word = attempt.heard_at or attempt.reserved_at
        return self._store.now() > last_word + RAYLET_GRACE

    def _bury(self, attempt: Attempt, gang: GangSeen, nodes: frozenset[str]) -> None:
        actor = f"agent:{attempt.agent}"
        job = self._store.job(attempt.job_id)
        assert job is not None
        why = Why(actor, Reason.PROVED_GONE, gang.cause)
        is_judged = attempt.outcome is not None or attempt.state is AttemptState.LOST
        if is_judged or job.attempt != attempt.number:
            with self._store.write() as tx:
                tx.move_attempt(attempt, AttemptMove.BURY, why)
            return
        outcome = _outcome(attempt, gang.cause, nodes)
        attempts = self._store.attempts(job.id)
        with self._store.write() as tx:
            tx.move_attempt(
                attempt, AttemptMove.BURY, why, outcome=outcome, failure=outcome.failure
            )
            verdict = endings.judge(job, attempts, outcome, tx.now(), self._jitter())
            if verdict is not None:
                job = endings.apply(tx, job, verdict, actor)
        if verdict is not None:
            self._meters.judged(job, verdict)

    def claim(self, name: str, claim: Claim) -> LaunchSpec:
        """Give a reserved attempt to an agent, once.

        Raises:
            NotFound: there is no such attempt of this agent.
            Closed: it is claimed already, or over.
            Conflict: this agent's process has been replaced.
        """
        agent = next((one for one in self._store.agents() if one.name == name), None)
        if agent is None or agent.boot_id != claim.boot_id:
            raise Conflict(f"a newer agent {name!r} has taken over")
        job = self._store.job(claim.job_id)
        attempt = self._store.attempt(claim.job_id, claim.attempt)
        if job is None or attempt is None or attempt.agent != name:
            raise NotFound(f"agent {name!r} has no attempt {claim.attempt} of {claim.job_id}")
        closed = Closed(f"attempt {attempt.number} of {job.id} is {attempt.state}, not reserved")
        if attempt.state is not AttemptState.RESERVED:
            raise closed
        try:
            with self._store.write() as tx:
                tx.move_attempt(
                    attempt,
                    AttemptMove.CLAIM,
                    Why(f"agent:{name}", Reason.CLAIMED),
                    token_sha256=claim.token_sha256,
                )
        except Stale:
            raise closed from None
        checkpoints = self._store.checkpoints(job.id)
        whole = [one for one in checkpoints if not (one.pruned or one.prune_asked)]
        return LaunchSpec(
            job_id=job.id,
            attempt=attempt.number,
            name=job.spec.name,
            recipe=job.spec.recipe,
            ranks=tuple(
                RankPlacement(rank=one.rank, node_id=one.node_id, cpus=one.cpus, gpus=one.gpus)
                for one in attempt.ranks
            ),
            storage_url=self._storage_url,
            data_roots=self._data_roots,
            resume=tuple(one.ref for one in whole[:RESUME_MAX]),
            env=dict(job.spec.env),
            deadlines=Deadlines(max_duration_seconds=job.spec.max_duration),
        )


def _outcome(attempt: Attempt, cause: str, nodes: frozenset[str]) -> Outcome:
    """What is said for a gang that can't say it any more."""
    if attempt.stop_reason is not None:
        return Outcome(
            result=Result.STOPPED,
            stop_reason=attempt.stop_reason,
            message=cause or "it ended after its stop order without a word",
        )
    return Outcome(
        result=Result.FAILED,
        failure=_failure(attempt, nodes),
        message=cause or "the gang's driver is gone without a word",
    )


def _failure(attempt: Attempt, nodes: frozenset[str]) -> FailureKind:
    if not all(rank.node_id in nodes for rank in attempt.ranks):
        return FailureKind.NODE_LOST
    if attempt.started_at is None:
        return FailureKind.START_TIMEOUT
    return FailureKind.WORKER_DIED
