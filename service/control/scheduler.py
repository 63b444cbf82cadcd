"""One pass: freeze the world, plan on it, and commit what is still so."""

from service.control.meters import Meters
from service.control.ports import Bus, PlanStore
from service.domain.asks import Leadership, Why
from service.domain.errors import Stale
from service.domain.job import JobState
from service.domain.records import RankShare, Reason
from service.planner.plan import plan
from service.planner.snapshot import Start, Waits
from workers.contract.wire import JobId

ACTOR = "scheduler"


class Scheduler:
    """Starts what fits, and tells everyone else why not; only the leader calls it."""

    def __init__(self, store: PlanStore, bus: Bus, meters: Meters) -> None:
        self._store = store
        self._bus = bus
        self._meters = meters
        self._told: dict[JobId, Waits] = {}  # what was written last, so that only news is written

    def run(self, leader: Leadership) -> int:
        """Make one pass; return how many gangs were granted.

        Raises:
            NotLeader: another server leads; nothing more was written.
        """
        planned = plan(self._store.snapshot())
        granted = sum(self._grant(start, leader) for start in planned.starts)
        self._explain(planned.waits, leader)
        return granted

    def _grant(self, start: Start, leader: Leadership) -> bool:
        job = self._store.job(start.job_id)
        if job is None or job.state is not JobState.QUEUED or job.attempt != start.attempt:
            return False  # it moved since the snapshot; the next pass sees it as it is
        ranks = [
            RankShare(rank, share.node_id, share.cpus, share.gpus)
            for rank, share in enumerate(start.shares)
        ]
        nodes = len({share.node_id for share in start.shares})
        sentence = f"{len(ranks)} workers on {nodes} node{'s' * (nodes != 1)} of {start.agent}"
        try:
            with self._store.write(leader) as tx:
                why = Why(ACTOR, Reason.RESERVED, sentence)
                attempt = tx.reserve(job, start.agent, ranks, why)
        except Stale:
            return False
        self._meters.granted(job, attempt)
        self._bus.wake(f"agent/{start.agent}")
        self._bus.wake(f"job/{job.id}")
        return True

    def _explain(self, waits: tuple[Waits, ...], leader: Leadership) -> None:
        news = [wait for wait in waits if self._told.get(wait.job_id) != wait]
        if news:
            with self._store.write(leader) as tx:
                for wait in news:
                    tx.explain(wait.job_id, wait.reason, wait.sentence)
        self._told = {wait.job_id: wait for wait in waits}  # after the commit: it may fail
