"""The tables: instants to the microsecond, and indexes that the hot questions really use."""

import itertools
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Engine, MetaData, Table, event, insert, select, text

from service.store import schema
from service.store.engine import open_engine
from service.store.store import Store
from service.store.tables import EPOCH, Instant
from tests.contracts.lives import a_spec, progress

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
        submitted_at, finished_at)
    SELECT 'job-' || n, 'key-' || n, '', :spec, 'eva', 'digits', 'default', 'default', 0, 1, 1, 0,
        CASE WHEN n % 2000 = 0 THEN 'queued' WHEN n % 3000 = 1 THEN 'running' ELSE 'succeeded' END,
        'outcome', '', 1, '{}', n, n
    FROM generate_series(1, :count) AS n
    """,
    """
    INSERT INTO attempts (job_id, number, state, agent, ranks, held, reason, reason_text,
        made_progress, reserved_at)
    SELECT 'job-' || n, 1, CASE WHEN n % 3000 = 1 THEN 'running' ELSE 'gone' END, 'a', '[]', 0,
        'outcome', '', false, n
    FROM generate_series(1, :count) AS n
    """,
    """
    INSERT INTO measurements (job_id, attempt, at, progress)
    SELECT 'job-' || n, 1, n, :progress FROM generate_series(1, :count) AS n
    """,
    """
    INSERT INTO readings (job_id, line_id, figures, data_wait_seconds)
    SELECT job_id, id, '{}', 0 FROM measurements
    """,
    """
    INSERT INTO checkpoints (job_id, path, manifest_sha256, stage_index, stage, step, attempt,
        bytes, files, save_seconds, stall_seconds, written_at, prune_asked, pruned)
    SELECT 'job-' || n, 'path-' || n, '', 0, 'finetune', 1, 1, 1, 1, 0, 0, n, true, n % 3000 <> 1
    FROM generate_series(1, :count) AS n
    """,
    "ANALYZE",
)
GIVEN = {
    "count": NUM_FINISHED,
    "spec": a_spec().model_dump_json(),
    "progress": progress(1).model_dump_json(),
}


@pytest.fixture
def busy(postgres_filled: Engine) -> tuple[Store, list[str]]:
    """A store with a long past, and the plans of the questions that it is asked from now on."""
    plans: list[str] = []

    @event.listens_for(postgres_filled, "before_cursor_execute")
    def _explain(connection: Connection, _cursor: object, sql: str, given: Any, *_: object) -> None:
        if sql.startswith("SELECT") and "FROM" in sql and "clock_timestamp" not in sql:
            numbers = itertools.count(1)
            generic = re.sub(r"%\(\w+\)s", lambda _: f"${next(numbers)}", sql)
            # A plan without the values, as PostgreSQL makes one after it met the question often:
            # it uses a partial index only where the state stands in the question literally.
            with closing(connection.connection.cursor()) as other:
                if "finished_at >=" in sql:  # but a span of time it plans with its ends: cheaper
                    other.execute(f"EXPLAIN {sql}", given)
                else:
                    other.execute(f"EXPLAIN (GENERIC_PLAN) {generic}")
                plans.append("\n".join(row[0] for row in other.fetchall()))

    return Store(postgres_filled), plans


@pytest.fixture
def postgres_filled(postgres_url: str) -> Iterator[Engine]:
    engine = open_engine(postgres_url)
    schema.upgrade(engine)
    with engine.begin() as connection:
        for sql in FILL:
            wanted = {name: value for name, value in GIVEN.items() if f":{name}" in sql}
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


def test_a_scrape_reads_only_the_jobs_that_it_shows(busy: tuple[Store, list[str]]) -> None:
    store, plans = busy
    assert len(store.readings(store.now())) == 7
    assert len(plans) == 3
    assert all("ix_jobs_active" in plan for plan in plans)
    assert all("ix_jobs_finished_at" in plan for plan in plans)
    walked = re.findall(r"Seq Scan on (\w+)", "\n".join(plans))
    assert set(walked) <= {"stages"}, "which is empty here"


def test_a_sync_reads_only_the_checkpoints_that_are_to_go(busy: tuple[Store, list[str]]) -> None:
    store, plans = busy
    assert len(store.to_prune("a", 50)) == 7
    [plan] = plans
    assert "ix_checkpoints_to_prune" in plan
    assert "Seq Scan" not in plan


def test_sqlite_too_reads_through_the_indexes(sqlite_url: str) -> None:
    """By its own plan: without statistics it decides on an empty database as on a full one."""
    engine = open_engine(sqlite_url)
    schema.upgrade(engine)
    store, plans = Store(engine), list[str]()

    @event.listens_for(engine, "before_cursor_execute")
    def _explain(connection: Connection, _cursor: object, sql: str, given: Any, *_: object) -> None:
        if sql.startswith("SELECT"):
            with closing(connection.connection.cursor()) as other:
                other.execute(f"EXPLAIN QUERY PLAN {sql}", given)
                plans.extend(row[3] for row in other.fetchall())

    store.snapshot()
    store.attempts_of_agent("a")
    store.attempts_not_gone()
    store.holdings()
    store.to_prune("a", 50)
    store.readings(store.now())
    scans = [plan for plan in plans if plan.startswith("SCAN") and "CONSTANT" not in plan]
    assert {plan.rpartition(" ")[2] for plan in scans} == {
        "sqlite_autoindex_nodes_1",
        "ix_attempts_not_gone",
        "ix_jobs_pending",
        "ix_jobs_active",
        "ix_checkpoints_to_prune",
    }
