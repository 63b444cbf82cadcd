"""What is wired holds together, and waits for a database that is ours."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.bootstrap import Service, build, open_jobs
from service.domain.errors import NotFound
from service.domain.spec import JobSpec
from service.settings import Settings, read_settings
from service.store import schema
from service.store.engine import open_engine, writing
from tests.waiting import eventually


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a state folder whose database has our schema."""
    settings = read_settings({"STRATA_HOME": str(tmp_path)})
    engine = open_engine(settings.database_url)
    schema.upgrade(engine)
    engine.dispose()
    return settings


def _readiness(service: Service) -> tuple[int, str]:
    """What the server's probe is told."""
    answer = TestClient(service.app).get("/readyz")
    return answer.status_code, answer.json()["status"]


def test_a_server_waits_for_its_schema_says_so_and_then_leads(tmp_path: Path) -> None:
    with closing(build(read_settings({"STRATA_HOME": str(tmp_path)}))) as service:
        service.start()
        assert _readiness(service) == (503, "the database has no schema; run `strata db upgrade`")
        http = TestClient(service.app)
        assert http.get("/healthz").status_code == 200
        refused = http.get("/v1/jobs", headers={"Authorization": "Bearer anything"})
        assert refused.status_code == 503
        assert "strata db upgrade" in refused.text
        assert not service.loop.is_leader
        schema.upgrade(service.engine)
        service.bus.wake("queue")
        eventually(lambda: service.loop.is_leader, "the server leads")
        assert _readiness(service) == (200, "the schema is current")


def test_a_server_does_not_lead_on_a_schema_of_a_release_to_come(settings: Settings) -> None:
    with closing(build(settings)) as service:
        with writing(service.engine) as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = 'from-the-future'"))
        service.start()
        status, sentence = _readiness(service)
        assert status == 503
        assert "newer than this release knows" in sentence
        assert not service.loop.is_leader


def test_a_server_waits_for_a_database_that_is_away() -> None:
    nobody = "postgresql://nobody@127.0.0.1:9/none"
    with closing(build(read_settings({"STRATA_DATABASE_URL": nobody}))) as service:
        service.start()
        status, sentence = _readiness(service)
        assert status == 503
        assert "does not answer" in sentence
        assert TestClient(service.app).get("/healthz").status_code == 200


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
