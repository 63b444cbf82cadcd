"""Opens the database: SQLite or PostgreSQL, with the settings that our promises rest on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from service.domain.errors import BadInput, NotFound, Unreachable
from service.store.tables import EPOCH, MICROSECOND

BUSY_SECONDS = 30.0  # SQLite's writers queue up; longer than any burst that the tests make
IDLE_TRANSACTION_SECONDS = 5  # a frozen server must not keep its locks from its heir
CONNECT_SECONDS = 5


def system_now() -> datetime:
    """The machine's wall clock, UTC."""
    return datetime.now(UTC)


def open_engine(url: str, now: Callable[[], datetime] = system_now) -> Engine:
    """Return an engine; nothing is connected yet.

    Args:
        url: `sqlite:///path`, `sqlite://` (in memory) or `postgresql://...`.
        now: the clock of SQLite, which has none of its own; PostgreSQL asks the server's.

    Raises:
        BadInput: the URL is none that we can open.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return _open_sqlite(url, now)
        if parsed.get_backend_name() == "postgresql":
            return _open_postgres(parsed.set(drivername="postgresql+psycopg"))
    except (ArgumentError, NoSuchModuleError):
        pass
    raise BadInput(
        "is no database that Strata can open",
        place="STRATA_DATABASE_URL",
        remedy="write sqlite:////path/to/file or postgresql://user:password@host/name",
    )


def _open_sqlite(url: str, now: Callable[[], datetime]) -> Engine:
    in_memory = make_url(url).database in (None, "", ":memory:")
    engine = create_engine(
        url,
        connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
        **({"poolclass": StaticPool} if in_memory else {"pool_size": 20}),
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we begin transactions ourselves, below
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # an acknowledged submit survives
        connection.execute("PRAGMA foreign_keys = ON")
        connection.create_function("strata_now", 0, lambda: (now() - EPOCH) // MICROSECOND)

    # One connection in memory is shared by all threads, so they take turns on it.
    engine.strata_turn = threading.RLock() if in_memory else None  # type: ignore[attr-defined]
    return engine


def _open_postgres(url: Any) -> Engine:
    return create_engine(
        url,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "options": f"-c idle_in_transaction_session_timeout={IDLE_TRANSACTION_SECONDS}s "
            "-c synchronous_commit=on",
        },
    )


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One short transaction that reads; raises Unreachable where the database does not answer."""
    with _connected(engine) as connection:
        _begin(connection, "BEGIN")
        yield connection
        connection.rollback()


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One short transaction: committed at the end of the block, or nothing of it."""
    with _connected(engine) as connection:
        # A writer that began as a reader would fail with "database is locked" when it turns.
        _begin(connection, "BEGIN IMMEDIATE")
        yield connection
        connection.commit()


def _begin(connection: Connection, sqlite_words: str) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(sqlite_words)


@contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    turn = getattr(engine, "strata_turn", None)
    if turn is not None:
        turn.acquire()
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        if error.connection_invalidated or _is_unreachable(error):
            raise Unreachable(
                f"the database does not answer: {str(error.orig).splitlines()[0]}",
                remedy="is it running, and is STRATA_DATABASE_URL right?",
            ) from error
        if _has_no_schema(error):
            raise NotFound(
                "the database has no schema yet", remedy="run `strata db upgrade`"
            ) from error
        raise
    finally:
        if turn is not None:
            turn.release()


def _is_unreachable(error: DBAPIError) -> bool:
    """True where there was no connection to be had, or it broke."""
    words = str(error.orig)
    return any(
        part in words
        for part in ("connection", "unable to open database file", "database is locked", "shutdown")
    )


def _has_no_schema(error: DBAPIError) -> bool:
    words = str(error.orig)
    return "no such table" in words or ("relation" in words and "does not exist" in words)


def database_now(connection: Connection) -> datetime:
    """The database's clock; on PostgreSQL `now()` would be the transaction's beginning."""
    if connection.dialect.name == "sqlite":
        counted = connection.scalar(text("SELECT strata_now()"))
    else:
        counted = connection.scalar(
            text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        )
    assert isinstance(counted, int)
    return EPOCH + counted * MICROSECOND
