"""The embedded database's jobs as plain JSON, for a command that must be done at once.

`strata jobs` without a server takes three times as long by way of SQLAlchemy, nearly all of it for
imports. The stored columns are the record's fields, so this is the same JSON; a test holds the two
equal.
"""

import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

INSTANTS = ("submitted_at", "not_before", "started_at", "finished_at")
JSONS = ("spec", "metrics")
PLAIN = (
    *("id", "seq", "key", "owner", "state", "reason", "reason_text", "stop_reason", "failure"),
    "attempt",
)
FIELDS = (*PLAIN, *JSONS, *INSTANTS)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BUSY_SECONDS = 5.0


def listed_jobs(
    database: Path,
    *,
    states: Sequence[str] = (),
    queue: str | None = None,
    name: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Jobs, newest first, as `to_json` would show them; [] where nobody has submitted any.

    `before` is the last page's last `seq`.
    """
    tests = [f"state IN ({', '.join('?' * len(states))})"] if states else []
    asked = [("queue = ?", queue), ("name = ?", name), ("seq < ?", before)]
    tests += [test for test, value in asked if value]
    where = f"WHERE {' AND '.join(tests)}" if tests else ""
    query = f"SELECT {', '.join(FIELDS)} FROM jobs {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608  # columns are ours, values are bound
    values = [*states, *(value for _, value in asked if value), limit]
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    try:
        return [_job(row) for row in connection.execute(query, values)]
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        raise
    finally:
        connection.close()


def _job(row: Sequence[Any]) -> dict[str, Any]:
    job = dict(zip(FIELDS, row, strict=True))
    for field in JSONS:
        job[field] = json.loads(job[field])
    job["metrics"] = {name: _figure(value) for name, value in job["metrics"].items()}
    for field in INSTANTS:
        job[field] = _instant(job[field])
    return job


def _figure(stored: float | str) -> float | None:
    """A metric; what is not finite is stored as a string, and is null in answers."""
    return None if isinstance(stored, str) else stored


def _instant(microseconds: int | None) -> str | None:
    if microseconds is None:
        return None
    at = EPOCH + timedelta(microseconds=microseconds)
    return at.isoformat().replace("+00:00", "Z")
