"""The network between the halves: it loses, repeats and delays what is said, on a seed."""

import random
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from service.control.fleet import Fleet
from service.control.ingest import Ingest
from service.domain.errors import Refusal
from service.domain.records import Attempt
from workers.contract.inventory import Sync, SyncAnswer
from workers.contract.launch import Claim, LaunchSpec
from workers.contract.reports import Report, ReportAnswer

T = TypeVar("T")
FAULT_SHARES = {"sync": 0.06, "claim": 0.12, "report": 0.05}
"""Of all calls, for each of the four ways in which they can go wrong; claims are few."""


class Lost(Exception):
    """No answer came; whether the call arrived is not known."""


class Wire:
    """Everything that agents and gangs say passes through here."""

    def __init__(
        self, fleet: Fleet, ingest: Ingest, rng: random.Random, fired: Counter[str]
    ) -> None:
        self._fleet, self._ingest = fleet, ingest
        self._rng, self._fired = rng, fired
        self._delayed: list[Callable[[], object]] = []
        self.is_faulty = True
        self.is_cut = False  # the service is away for everybody

    def sync(self, name: str, sync: Sync) -> SyncAnswer:
        return self._call("sync", lambda: self._fleet.sync(name, sync))

    def claim(self, name: str, claim: Claim) -> LaunchSpec:
        return self._call("claim", lambda: self._fleet.claim(name, claim))

    def report(self, attempt: Attempt, report: Report) -> ReportAnswer:
        return self._call("report", lambda: self._ingest.report(attempt, report))

    def deliver_late(self) -> None:
        """Let one of the delayed calls arrive, long after its caller gave it up."""
        if self._delayed and (not self.is_faulty or self._rng.random() < 0.3):
            late = self._delayed.pop(self._rng.randrange(len(self._delayed)))
            try:
                late()
            except Refusal as refusal:
                self._fired[f"late call refused: {refusal.code}"] += 1

    def _call(self, what: str, call: Callable[[], T]) -> T:
        if self.is_cut:
            raise Lost
        fault = self._rng.random() / FAULT_SHARES[what] if self.is_faulty else 9.0
        if fault < 1:
            self._fired[f"{what} lost"] += 1
            raise Lost
        if fault < 2:
            self._delayed.append(call)
            self._fired[f"{what} delayed"] += 1
            raise Lost
        answer = call()
        if fault < 3:
            self._fired[f"answer to {what} lost"] += 1
            raise Lost
        if fault < 4:
            self._fired[f"{what} repeated"] += 1
            answer = call()
        return answer
