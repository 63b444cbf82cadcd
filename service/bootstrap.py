"""Wires everything: settings -> engine, store, bus, control, doors. Nobody else knows all rooms.

What only a server needs is imported when one is built: `strata jobs` reads through here as well.
"""

import random
import secrets
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from service.bus.local_bus import SHARED_POLL_SECONDS, LocalBus
from service.control.clock import JobIds, SystemClock
from service.control.files import Files
from service.control.jobs import Jobs
from service.domain.errors import Unreachable
from service.settings import Settings
from service.store.engine import open_engine
from service.store.store import Store

if TYPE_CHECKING:
    from fastapi import FastAPI

    from service.bus.redis_bus import RedisBus
    from service.control.loop import ControlLoop
    from service.control.ports import Bus


@dataclass(frozen=True, slots=True)
class Service:
    """A server that is ready to start."""

    app: "FastAPI"
    store: Store
    loop: "ControlLoop"
    engine: Engine
    bus: "Bus"

    def start(self) -> None:
        """Begin to hear of what others did, and to plan as soon as the schema is there."""
        self.bus.start()
        self.loop.start(partial(_prove_schema, self.engine))

    def close(self) -> None:
        """Stop the loop and let go of the database and the bus."""
        self.loop.stop()
        self.bus.close()
        self.engine.dispose()


def build(settings: Settings) -> Service:
    """Wire a server; nothing runs yet, and the database is not asked."""
    from prometheus_client import CollectorRegistry

    from service.control.fleet import Fleet
    from service.control.ingest import Ingest
    from service.control.loop import ControlLoop
    from service.control.meters import Meters
    from service.http.app import create_app
    from service.http.services import Services
    from service.store import schema
    from service.store.meters import measure

    engine = open_engine(settings.database_url)
    redis = _redis(settings)
    registry = CollectorRegistry()
    measure(engine, registry)
    store, clock, meters = Store(engine), SystemClock(), Meters(registry)
    bus: Bus = redis or _local_bus(engine)
    holder = f"{socket.gethostname()}-{secrets.token_hex(4)}"
    loop = ControlLoop(store, bus, clock, holder, random.random, meters)
    services = Services(
        store=store,
        bus=bus,
        jobs=_jobs(settings, store, bus),
        files=Files(store, storage_url=settings.storage_url),
        ingest=Ingest(store, bus, random.random, meters),
        fleet=Fleet(
            store,
            bus,
            storage_url=settings.storage_url,
            data_roots=settings.data_roots,
            jitter=random.random,
            meters=meters,
        ),
        loop=loop,
        registry=registry,
        redis=redis,
        check_schema=partial(schema.check, engine),
        layers_max=settings.metrics_layers,
    )
    return Service(create_app(services), store, loop, engine, bus)


def open_jobs(settings: Settings) -> tuple[Jobs, Files]:
    """What reads the embedded database while no server runs."""
    store = Store(open_engine(settings.database_url))
    jobs = _jobs(settings, store, LocalBus())
    return jobs, Files(store, storage_url=settings.storage_url)


def _jobs(settings: Settings, store: Store, bus: "Bus") -> Jobs:
    return Jobs(
        store,
        bus,
        storage_url=settings.storage_url,
        data_roots=settings.data_roots,
        ids=JobIds(),
    )


def _redis(settings: Settings) -> "RedisBus | None":
    """The bus of several servers, if one is named; it begins by itself, and waits for its Redis."""
    if settings.redis_url is None:
        return None
    from service.bus.redis_bus import RedisBus

    return RedisBus(settings.redis_url)


def _local_bus(engine: Engine) -> LocalBus:
    """One process alone writes to a SQLite; to another database perhaps several do."""
    return LocalBus() if engine.dialect.name == "sqlite" else LocalBus(SHARED_POLL_SECONDS)


def _prove_schema(engine: Engine) -> None:
    """Raise Unreachable unless the schema is one that this release can work on."""
    from service.store import schema

    state = schema.check(engine)
    if not state.is_acceptable:
        raise Unreachable(state.sentence, place="STRATA_DATABASE_URL")
