"""The schema: what the migrations make is what the tables say, and who may work on it."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, insert, inspect, text, update

from service.domain.errors import BadInput, Unreachable
from service.store import schema
from service.store.engine import open_engine, writing
from service.store.store import Store
from service.store.tables import metadata, schema_release
from tests.contracts.lives import new_job

INDEXES_SQL = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
}


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    engine = open_engine(empty_database_url)
    yield engine
    engine.dispose()


def indexes(engine: Engine) -> dict[str, str]:
    """The definition of every index, as the database has it."""
    with engine.connect() as connection:
        rows = connection.execute(text(INDEXES_SQL[engine.dialect.name])).all()
    return {name: " ".join(sql.split()) for name, sql in rows if name != "alembic_version_pkc"}


def set_revision(engine: Engine, revision: str, release: int | None) -> None:
    """Let the database say that a migration has run that we do not know."""
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :new"), {"new": revision})
        if release is not None:
            connection.execute(insert(schema_release).values(number=release))


def test_the_migrations_make_the_tables_that_the_code_speaks(engine: Engine) -> None:
    schema.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_migrations_make_the_same_indexes_as_the_tables(engine: Engine) -> None:
    schema.upgrade(engine)
    migrated = indexes(engine)
    schema.downgrade(engine, "base")
    with engine.begin() as connection:
        metadata.create_all(connection)
    assert migrated == indexes(engine)
    assert "queued" in migrated["ix_jobs_pending"]
    assert "gone" in migrated["ix_attempts_not_gone"]


def test_an_upgraded_database_serves_a_store(engine: Engine) -> None:
    schema.upgrade(engine)
    store = Store(engine)
    with store.write() as tx:
        job = tx.add_job(new_job())
    assert store.job(job.id) == job


def test_the_schema_goes_down_to_nothing_and_up_again(engine: Engine) -> None:
    schema.upgrade(engine)
    schema.downgrade(engine, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    assert schema.check(engine).current is None
    schema.upgrade(engine)
    assert schema.check(engine).is_acceptable


def test_an_upgrade_of_a_current_schema_changes_nothing(engine: Engine) -> None:
    schema.upgrade(engine)
    with Store(engine).write() as tx:
        job = tx.add_job(new_job())
    schema.upgrade(engine)
    assert Store(engine).job(job.id) == job


def test_two_upgrades_at_once_both_succeed(engine: Engine) -> None:
    engines = [engine, open_engine(engine.url.render_as_string(hide_password=False))]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(schema.upgrade, engines, timeout=60))
    assert schema.check(engine).is_acceptable


def test_a_failed_upgrade_leaves_nothing_behind(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE measurements (something INTEGER)"))  # the last one
    with pytest.raises(Exception, match="measurements"):
        schema.upgrade(engine)
    assert inspect(engine).get_table_names() == ["measurements"]


def test_an_empty_database_is_not_acceptable_and_says_what_to_run(engine: Engine) -> None:
    state = schema.check(engine)
    assert (state.current, state.is_acceptable) == (None, False)
    assert "strata db upgrade" in state.sentence


def test_our_own_schema_is_acceptable(engine: Engine) -> None:
    schema.upgrade(engine)
    state = schema.check(engine)
    assert state.current == state.head
    assert state.is_acceptable


def test_an_older_schema_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    schema.upgrade(engine)
    from alembic.script import ScriptDirectory

    # As a later release sees it: its head is another, and ours is among its ancestors.
    monkeypatch.setattr(ScriptDirectory, "get_current_head", lambda _: "9999")
    state = schema.check(engine)
    assert not state.is_acceptable
    assert "older" in state.sentence
    assert "strata db upgrade" in state.sentence


@pytest.mark.parametrize(("releases_ahead", "is_acceptable"), [(0, False), (1, True), (2, False)])
def test_a_schema_that_is_one_release_newer_is_acceptable_and_no_other(
    engine: Engine, releases_ahead: int, is_acceptable: bool
) -> None:
    schema.upgrade(engine)
    newer = 1 + releases_ahead
    set_revision(engine, "9999", newer if releases_ahead else None)
    state = schema.check(engine)
    assert (state.current, state.is_acceptable) == ("9999", is_acceptable)
    assert "newer" in state.sentence


def test_a_newer_schema_is_not_touched_by_an_older_releases_upgrade(engine: Engine) -> None:
    schema.upgrade(engine)
    set_revision(engine, "9999", 2)
    with pytest.raises(BadInput, match="upgrade Strata"):
        schema.upgrade(engine)
    assert schema.check(engine).current == "9999"


def test_a_check_of_a_database_that_does_not_answer_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        schema.check(open_engine(f"sqlite:///{tmp_path}/no/such/folder/strata.db"))


def test_the_migrations_are_found_from_any_folder(tmp_path: Path) -> None:
    """As from an installed wheel: nothing may depend on where the process stands."""
    script = (
        "from service.store import schema\n"
        "from service.store.engine import open_engine\n"
        f"engine = open_engine('sqlite:///{tmp_path}/strata.db')\n"
        "schema.upgrade(engine)\n"
        "print(schema.check(engine).sentence)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "the schema is current"


def test_the_release_is_recorded_once(engine: Engine) -> None:
    schema.upgrade(engine)
    with writing(engine) as connection:
        done = connection.execute(update(schema_release).values(number=schema_release.c.number))
        assert done.rowcount == 1
