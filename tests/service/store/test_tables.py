"""The tables: instants to the microsecond, and indexes that the hot questions really use."""

import itertools
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Column, Connection, Engine, MetaData, Table, event, insert, select, text

from service.store import schema
from service.store.engine import open_engine
from service.store.store import Store
from service.store.tables import EPOCH, Instant
from tests.contracts.lives import a_spec

instants = Table("instants", MetaData(), Column("at", Instant))


@pytest.mark.parametrize(
    "at",
    [
        datetime(2026, 11, 1, 12, 30, 15, 123456, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
    ],
)
def test_an_instant_comes_back_exactly_and_as_utc(at: datetime) -> None:
    engine = open_engine("sqlite://")
    with engine.begin() as connection:
        instants.create(connection)
        connection.execute(insert(instants).values(at=at))
        found = connection.scalar(select(instants.c.at))
        assert found == at
        assert found is not None
        assert found.tzinfo is UTC
        assert connection.scalar(select(instants.c.at).where(instants.c.at < at)) is None
        earlier = at - timedelta(microseconds=1)
        assert connection.scalar(select(instants.c.at).where(instants.c.at > earlier)) == at


def test_an_instant_without_a_zone_is_our_mistake() -> None:
    dialect = open_engine("sqlite://").dialect
    with pytest.raises(TypeError):
        Instant().process_bind_param(EPOCH.replace(tzinfo=None), dialect)


# --- the plans, on a table of which nearly everything is finished

NUM_FINISHED = 20_000
FILL = (
    """
    INSERT INTO jobs (id, key, spec_sha256, spec, owner, name, project, queue, priority, workers,
        cpus_per_worker, gpus_per_worker, state, reason, reason_text, attempt, metrics,
        submitted_at)
    SELECT 'job-' || n, 'key-' || n, '', :spec, 'eva', 'digits', 'default', 'default', 0, 1, 1, 0,
        CASE WHEN n % 2000 = 0 THEN 'queued' ELSE 'succeeded' END, 'outcome', '', 1, '{}', n
    FROM generate_series(1, :count) AS n
    """,
    """
    INSERT INTO attempts (job_id, number, state, agent, ranks, held, reason, reason_text,
        made_progress, reserved_at)
    SELECT 'job-' || n, 1, CASE WHEN n % 3000 = 1 THEN 'running' ELSE 'gone' END, 'a', '[]', 0,
        'outcome', '', false, n
    FROM generate_series(1, :count) AS n
    """,
    "ANALYZE",
)


@pytest.fixture
def busy(postgres_filled: Engine) -> tuple[Store, list[str]]:
    """A store with a long past, and the plans of the questions that it is asked from now on."""
    plans: list[str] = []

    @event.listens_for(postgres_filled, "before_cursor_execute")
    def _explain(
        connection: Connection, _cursor: object, sql: str, _given: object, *_: object
    ) -> None:
        if "FROM jobs" in sql or "FROM attempts" in sql:
            numbers = itertools.count(1)
            generic = re.sub(r"%\(\w+\)s", lambda _: f"${next(numbers)}", sql)
            # A plan without the values, as PostgreSQL makes one after it met the question often:
            # it uses a partial index only where the state stands in the question literally.
            with closing(connection.connection.cursor()) as other:
                other.execute(f"EXPLAIN (GENERIC_PLAN) {generic}")
                plans.append("\n".join(row[0] for row in other.fetchall()))

    return Store(postgres_filled), plans


@pytest.fixture
def postgres_filled(postgres_url: str) -> Iterator[Engine]:
    engine = open_engine(postgres_url)
    schema.upgrade(engine)
    with engine.begin() as connection:
        for sql in FILL:
            given = {"count": NUM_FINISHED, "spec": a_spec().model_dump_json()}
            wanted = {name: value for name, value in given.items() if f":{name}" in sql}
            connection.execute(text(sql), wanted)
    yield engine
    engine.dispose()


def test_a_plan_reads_only_what_waits_or_runs_through_the_partial_indexes(
    busy: tuple[Store, list[str]],
) -> None:
    store, plans = busy
    world = store.snapshot()
    assert (len(world.pending), len(world.running)) == (10, 7)
    whole = "\n".join(plans)
    assert "ix_jobs_pending" in whole
    assert "ix_attempts_not_gone" in whole
    assert "Seq Scan on jobs" not in whole
    assert "Seq Scan on attempts" not in whole


def test_an_agents_and_the_reconcilers_questions_use_the_partial_index(
    busy: tuple[Store, list[str]],
) -> None:
    store, plans = busy
    assert len(store.attempts_of_agent("a")) == len(store.attempts_not_gone())
    assert len(plans) == 2
    assert all("ix_attempts_not_gone" in plan for plan in plans)
