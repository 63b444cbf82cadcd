"""The leader's loop: one thread that elects, plans and reconciles, at every wake-up or poll."""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from service.control.elector import Elector
from service.control.endings import Jitter
from service.control.meters import Meters
from service.control.ports import Bus, Clock, FleetStore, PlanStore
from service.control.reconciler import Reconciler
from service.control.scheduler import Scheduler
from service.domain.asks import Leadership
from service.domain.errors import NotLeader, Unreachable

POLL_SECONDS = 1.0  # the safety net: a lost wake-up costs so much
POLL_SECONDS_MAX = 15.0  # while the database is away: soon enough, and no storm when it is back
RECONCILE_SECONDS = 2.0
STUCK_SECONDS = 60.0  # a loop that has not turned for so long is dead

log = logging.getLogger(__name__)


class ControlStore(FleetStore, PlanStore, Protocol):
    """All that the loop's phases touch."""


class ControlLoop:
    """Runs until it is stopped; no error of a phase ends it."""

    def __init__(
        self,
        store: ControlStore,
        bus: Bus,
        clock: Clock,
        holder: str,
        jitter: Jitter,
        meters: Meters,
        *,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._bus = bus
        self._meters = meters
        self._clock = clock
        self._elector = Elector(store, clock, holder)
        self._scheduler = Scheduler(store, bus, meters)
        self._reconciler = Reconciler(store, bus, jitter, meters)
        self._poll_seconds = poll_seconds
        self._pause_seconds = poll_seconds
        self._last_term: Leadership | None = None
        self._is_database_away = False
        self._reconciled_at = -RECONCILE_SECONDS
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._turned_at = clock.monotonic()

    @property
    def is_leader(self) -> bool:
        """True while this server holds the lease."""
        return self._elector.term is not None

    @property
    def is_alive(self) -> bool:
        """False once the loop has not turned for too long."""
        return self._clock.monotonic() - self._turned_at < STUCK_SECONDS

    def start(self, prove_schema: Callable[[], None]) -> None:
        """Begin to turn, once `prove_schema` raises nothing: a migration may still be under way."""
        self._prove_schema = prove_schema
        self._leave = self._bus.listen("queue", self._wake.set)
        self._thread.start()

    def stop(self) -> None:
        """Turn no more, and let another server lead at once; a second call changes nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._leave()
            self._thread.join()
        self._phase("resign", self._elector.resign)

    def turn(self) -> None:
        """Do once what is due now."""
        self._phase("elect", self._elector.run)
        term = self._elector.term
        if term is not None:
            self._count(term)
            self._phase("schedule", lambda: self._scheduler.run(term))
            now = self._clock.monotonic()
            if now - self._reconciled_at >= RECONCILE_SECONDS:
                self._phase("reconcile", lambda: self._reconciler.run(term))
                self._reconciled_at = now
        self._settle()

    def _run(self) -> None:
        has_schema = False
        while not self._stopping.is_set():
            self._wake.clear()  # before the turn: a wake-up during it asks for another one
            has_schema = has_schema or self._phase("schema", self._prove_schema)
            if has_schema:
                self.turn()
            else:
                self._settle()
            self._wake.wait(self._pause_seconds)

    def _settle(self) -> None:
        """End a turn: say how long to pause, and that this thread lives."""
        doubled = min(2 * self._pause_seconds, POLL_SECONDS_MAX)
        self._pause_seconds = doubled if self._is_database_away else self._poll_seconds
        self._is_database_away = False
        self._turned_at = self._clock.monotonic()

    def _count(self, term: Leadership) -> None:
        if term != self._last_term:
            self._meters.elected()
        self._last_term = term

    def _phase(self, name: str, run: Callable[[], object]) -> bool:
        """Return whether it came to its end; an error that is not ours to foresee is counted."""
        began, failed, is_done = self._clock.monotonic(), True, False
        try:
            run()
            failed, is_done = False, True
        except NotLeader as refusal:
            log.warning("no longer the leader: %s", refusal)
            self._elector.term = None
            failed = False
        except Unreachable as refusal:
            log.warning("the control loop waits for its database: %s", refusal)
            self._is_database_away = True
        except Exception:
            log.exception("the control loop's phase %r failed; it is tried again", name)
        self._meters.turned(name, self._clock.monotonic() - began, failed=failed)
        return is_done
