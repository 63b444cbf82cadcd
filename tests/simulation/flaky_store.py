"""The real store, whose answers get lost, and between whose transactions others get their turn."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from service.domain.asks import Leadership
from service.domain.errors import Unreachable
from service.domain.records import Attempt, Job
from service.planner.plan import plan
from service.planner.snapshot import Snapshot
from service.store.facts import FactWrites
from service.store.store import Store
from workers.contract.wire import JobId

AWAY_SHARE = 0.01  # of the transactions, for each of two ways
CROSSING_SHARE = 0.02  # of the reads after which somebody else acts first
FREEZE_SHARE = 0.1  # of the plans that start something, after which the leader oversleeps


class FlakyStore(Store):
    """Control must not notice any of this, but for errors that it may pass on."""

    def __init__(self, engine: Engine, rng: random.Random, fired: Counter[str]) -> None:
        super().__init__(engine)
        self._rng, self._fired = rng, fired
        self._somebody_acts = False
        self.is_faulty = True
        self.cross: Callable[[], None] = lambda: None
        self.freeze: Callable[[], None] = lambda: None

    @contextmanager
    def write(self, leader: Leadership | None = None) -> Iterator[FactWrites]:
        fault = self._rng.random() / AWAY_SHARE if self.is_faulty else 9.0
        if fault < 1:
            self._fired["database away before the commit"] += 1
            raise Unreachable("the database does not answer")
        with super().write(leader) as tx:
            yield tx
        if fault < 2:
            self._fired["database away after the commit"] += 1
            raise Unreachable("the database does not answer")

    def snapshot(self) -> Snapshot:
        found = super().snapshot()
        if plan(found).starts:
            self._let_act("leader frozen over its lease", FREEZE_SHARE, self.freeze)
        self._let_act("crossing after a snapshot", CROSSING_SHARE, self.cross)
        return found

    def job(self, job_id: JobId) -> Job | None:
        found = super().job(job_id)
        self._let_act("crossing after a read of a job", CROSSING_SHARE, self.cross)
        return found

    def attempt(self, job_id: JobId, number: int) -> Attempt | None:
        found = super().attempt(job_id, number)
        self._let_act("crossing after a read of an attempt", CROSSING_SHARE, self.cross)
        return found

    def attempts_not_gone(self) -> list[Attempt]:
        found = super().attempts_not_gone()
        self._let_act("crossing after a read of all attempts", CROSSING_SHARE, self.cross)
        return found

    def _let_act(self, what: str, share: float, act: Callable[[], None]) -> None:
        if not self.is_faulty or self._somebody_acts or self._rng.random() > share:
            return
        self._fired[what] += 1
        self._somebody_acts = True
        try:
            act()
        finally:
            self._somebody_acts = False
