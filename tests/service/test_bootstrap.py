"""What is wired holds together, and refuses a database that is not ours."""

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from service.bootstrap import build, open_jobs
from service.domain.errors import BadInput, NotFound, Unreachable
from service.domain.spec import JobSpec
from service.settings import Settings, read_settings
from service.store import schema
from service.store.engine import open_engine, writing


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a state folder whose database has our schema."""
    settings = read_settings({"STRATA_HOME": str(tmp_path)})
    engine = open_engine(settings.database_url)
    schema.upgrade(engine)
    engine.dispose()
    return settings


def test_a_database_without_a_schema_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no schema; run `strata db upgrade`"):
        build(read_settings({"STRATA_HOME": str(tmp_path)}))


def test_a_schema_of_a_release_to_come_is_refused(settings: Settings) -> None:
    engine = open_engine(settings.database_url)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from-the-future'"))
    engine.dispose()
    with pytest.raises(BadInput, match="newer than this release knows"):
        build(settings)


def test_a_database_that_is_away_is_unreachable() -> None:
    nobody = "postgresql://nobody@127.0.0.1:9/none"
    with pytest.raises(Unreachable, match="does not answer"):
        build(read_settings({"STRATA_DATABASE_URL": nobody}))


def test_what_a_server_stored_is_read_without_one(settings: Settings) -> None:
    spec = JobSpec.model_validate(
        {"name": "digits", "data": {"source": "digits"}, "model": {"kind": "mlp", "hidden": [8]}}
    )
    jobs, files = open_jobs(settings)
    with pytest.raises(NotFound, match="there is no job yet"):
        jobs.find("@latest")
    job = jobs.submit(spec, key="k", owner="user:anna").job
    service = build(settings)
    stored = service.store.job(job.id)
    service.close()
    assert stored == job == jobs.find("@latest")
    assert files.logs(job, attempt=None, who="rank-0").text == ""


def test_a_closed_server_leaves_the_lead_to_the_next_at_once(settings: Settings) -> None:
    first, waiting, heir = (build(settings) for _ in range(3))
    first.loop.turn()
    waiting.loop.turn()
    assert (first.loop.is_leader, waiting.loop.is_leader) == (True, False)
    first.close()
    heir.loop.turn()
    assert heir.loop.is_leader
    for service in (waiting, heir, heir):  # once more changes nothing
        service.close()


def test_reading_without_a_server_loads_none_of_it() -> None:
    code = (
        "import sys, service.bootstrap\n"
        "heavy = {'fastapi', 'uvicorn', 'alembic', 'prometheus_client', 'httpx', 'redis', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
