"""Times what the database is asked, for /metrics."""

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

QUERY_BUCKETS = (0.0005, 0.002, 0.01, 0.05, 0.25, 1.0, 5.0)
KINDS = frozenset(  # as PEP 249 names them
    {
        "DataError",
        "DatabaseError",
        "IntegrityError",
        "InterfaceError",
        "InternalError",
        "NotSupportedError",
        "OperationalError",
        "ProgrammingError",
    }
)
OPERATIONS = frozenset({"select", "insert", "update", "delete"})  # all else is "other"


def measure(engine: Engine, registry: CollectorRegistry) -> None:
    """Time every statement of the engine, and count what fails."""
    seconds = Histogram(
        "strata_db_query_seconds",
        "Time of a statement in the database, in seconds.",
        ["op"],
        buckets=QUERY_BUCKETS,
        registry=registry,
    )
    errors = Counter(
        "strata_db_errors",
        "Statements that failed, by the kind of error; those of two writers at once are usual.",
        ["kind"],
        registry=registry,
    )

    for kind in (*KINDS, "other"):  # from 0 on: a rate does not see a series' birth
        errors.labels(kind)

    @event.listens_for(engine, "before_cursor_execute")
    def begin(connection: Any, *_: object) -> None:
        connection.info["begun_at"] = time.perf_counter()

    @event.listens_for(engine, "after_cursor_execute")
    def end(connection: Any, _cursor: object, statement: str, *_: object) -> None:
        word = statement.lstrip().partition(" ")[0].lower()
        op = word if word in OPERATIONS else "other"
        seconds.labels(op).observe(time.perf_counter() - connection.info["begun_at"])

    @event.listens_for(engine, "handle_error")
    def fail(context: ExceptionContext) -> None:
        kind = type(context.sqlalchemy_exception or context.original_exception).__name__
        errors.labels(kind if kind in KINDS else "other").inc()
