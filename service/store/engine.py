"""Opens the database: SQLite or PostgreSQL, with the settings that our promises rest on."""

import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import StaticPool

from service.domain.errors import BadInput, Refusal, Unreachable
from service.store.tables import EPOCH, MICROSECOND

WAL_TRY_SECONDS = 0.01
BUSY_SECONDS = 30.0  # SQLite's writers queue up; longer than any burst that the tests make
IDLE_TRANSACTION_SECONDS = 5  # a frozen server must not keep its locks from its heir
CONNECT_SECONDS = 5
AWAY_WORDS = ("connection", "unable to open", "database is locked", "shutdown", "starting up")
"""How the drivers say that there was no connection to be had, or that it broke."""


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
    except (ArgumentError, NoSuchModuleError, ValueError):
        pass  # their words are not shown: they may quote a part of the password
    raise BadInput(
        "is no database that Strata can open",
        place="STRATA_DATABASE_URL",
        remedy="write sqlite:////path/to/file or postgresql://user:password@host/name",
    )


def _open_sqlite(url: str, now: Callable[[], datetime]) -> Engine:
    in_memory = make_url(url).database in (None, "", ":memory:")
    engine = create_engine(
        url,
        json_serializer=json_text,
        hide_parameters=True,
        connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
        **({"poolclass": StaticPool} if in_memory else {"pool_size": 20}),
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we begin transactions ourselves, below
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")  # an acknowledged submit survives
        connection.execute("PRAGMA foreign_keys = ON")
        connection.create_function("strata_now", 0, lambda: (now() - EPOCH) // MICROSECOND)

    # One connection in memory is shared by all threads, so they take turns on it.
    # An attribute of our own: the turn belongs to this one engine.
    engine.strata_turn = threading.RLock() if in_memory else None  # type: ignore[attr-defined]
    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Keep a write-ahead log; where two make a new file at once, SQLite does not wait by itself."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(WAL_TRY_SECONDS)
        else:
            return


def _open_postgres(url: Any) -> Engine:
    return create_engine(
        url,
        json_serializer=json_text,
        hide_parameters=True,  # a job's `env` must not come into a log with the error of its row
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "options": f"-c idle_in_transaction_session_timeout={IDLE_TRANSACTION_SECONDS}s "
            "-c synchronous_commit=on",
        },
    )


def json_text(value: Any) -> str:
    """JSON as the standard has it: a diverged net's NaN and infinities travel as strings."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_without_infinities(value), allow_nan=False)


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinities(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


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
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise refusal from error
    except OverflowError as error:  # SQLite's driver, where PostgreSQL's has a DataError
        raise BadInput(f"the database can't hold a value: {error}") from error
    except PoolTimeout as error:
        raise Unreachable("all connections to the database are busy") from error
    finally:
        if turn is not None:
            turn.release()


def _refusal(error: DBAPIError) -> Refusal | None:
    """What is not our own mistake, as a sentence; None for everything else."""
    words = str(error.orig)
    if "no such table" in words or ("relation" in words and "does not exist" in words):
        return Unreachable("the database has no schema yet", remedy="run `strata db upgrade`")
    is_away = isinstance(error, OperationalError) and any(part in words for part in AWAY_WORDS)
    if error.connection_invalidated or is_away:
        return Unreachable(
            f"the database does not answer: {words.splitlines()[0]}",
            remedy="is it running, and is STRATA_DATABASE_URL right?",
        )
    if isinstance(error, DataError):  # longer than its column, or a number beyond 64 bits
        return BadInput(f"the database can't hold a value: {words.splitlines()[0]}")
    return None


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
