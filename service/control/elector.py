"""Keeps one leader among the servers, by a lease in the database and on its clock."""

from service.control.ports import Clock, PlanStore
from service.domain.asks import Leadership

LEASE = "control"
LEASE_SECONDS = 9.0
RENEW_SECONDS = 3.0  # two renewals may fail before the lease is over


class Elector:
    """This server's part in it."""

    def __init__(self, store: PlanStore, clock: Clock, holder: str) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._asked_at = -RENEW_SECONDS
        self.term: Leadership | None = None

    def run(self) -> Leadership | None:
        """Take or renew the lease when it is time; return our term, None while another leads.

        A term whose renewal fails is given up at once: its writes would be refused anyway.
        """
        now = self._clock.monotonic()
        if now - self._asked_at >= RENEW_SECONDS:
            term = None
            try:
                term = self._store.take_lead(LEASE, self._holder, LEASE_SECONDS)
            finally:
                self.term = term  # at once: others look at it while we ask
            self._asked_at = now
        return self.term

    def resign(self) -> None:
        """Give the lease up, so that the heir need not wait."""
        if self.term is not None:
            self._store.drop_lead(LEASE, self.term)
            self.term = None
        self._asked_at = -RENEW_SECONDS
