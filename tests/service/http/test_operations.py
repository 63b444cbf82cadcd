"""Health, metrics, and what a server must not import."""

import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.domain.errors import BadInput, Forbidden, NotFound, Unreachable
from service.http.client import Client
from tests.service.http.conftest import Doors
from tests.service.http.test_machines import Live, live
from tests.service.http.test_people import ENDED, PROGRESS, STAGE, STARTED

__all__ = ["live"]


def series(doors: Doors) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = doors.http.get("/metrics").text
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    assert all(family.name.startswith("strata_") for family in families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_queue_is_counted(doors: Doors) -> None:
    for n in range(3):
        doors.submit(f"k{n}")
    found = series(doors)
    labels = (("queue", "default"), ("state", "queued"))
    assert found["strata_jobs", labels] == 3
    assert found["strata_jobs_submitted_total", (("queue", "default"),)] == 3
    assert found["strata_job_oldest_queued_timestamp_seconds", (("queue", "default"),)] > 1e9


def test_a_running_jobs_series_are_there_and_go_with_it(doors: Doors) -> None:
    job = doors.running()
    doors.report(job, STARTED, STAGE, PROGRESS)
    labels = (("job_id", job["id"]),)
    found = series(doors)
    assert found["strata_train_loss", labels] == 2.25
    assert found["strata_train_samples_total", labels] == 1400
    doors.report(job, ENDED, first=4)
    found = series(doors)
    assert not [name for name, its in found if its == labels]
    assert found["strata_jobs_finished_total", (("outcome", "succeeded"),)] == 1


def test_requests_are_counted_by_route_and_not_by_path(doors: Doors) -> None:
    job = doors.submit()
    doors.get(f"/v1/jobs/{job['id']}")
    found = series(doors)
    labels = (("method", "GET"), ("route", "/v1/jobs/{ref}"), ("status", "200"))
    assert found["strata_http_requests_total", labels] == 1
    assert not [labels for _, labels in found if any(job["id"] in value for _, value in labels)]


def test_health_needs_no_token_and_tells_of_a_loop_that_died(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doors.http.get("/healthz").status_code == 200
    assert doors.http.get("/readyz").json() == {"status": "the schema is current"}
    monkeypatch.setattr(doors.service.loop, "_turned_at", float("-inf"))
    assert doors.http.get("/healthz").status_code == 503


def test_the_api_is_published(doors: Doors) -> None:
    page = doors.http.get("/v1/openapi.json").json()
    assert page["info"]["title"] == "Strata"
    assert "/v1/jobs" in page["paths"]


def test_the_client_hears_the_servers_own_words(live: Live) -> None:
    client = Client(live.url, live.doors.tokens["viewer"])
    assert client.get("/v1/jobs", limit=3, queue=None) == {"jobs": []}
    with pytest.raises(NotFound, match="there is no job 'ffff'"):
        client.get(client.job("ffff"))
    with pytest.raises(Forbidden, match="viewer is a viewer"):
        client.post("/v1/jobs", {"spec": {}, "key": "k"})
    admin = Client(live.url, live.doors.tokens["admin"])
    with pytest.raises(BadInput) as caught:
        admin.post("/v1/jobs", {"spec": {"nam": 1}, "key": "k"})
    assert caught.value.place
    assert caught.value.exit_code == 2


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        Client("http://127.0.0.1:9", "t").get("/v1/jobs")


def test_neither_server_nor_command_line_imports_torch_or_ray() -> None:
    code = (
        "import sys, service.bootstrap, service.http.app, service.cli.embedded, service.cli.run\n"
        "from service.cli.main import COMMANDS, cli\n"
        "import click\n"
        "for name in COMMANDS: cli.get_command(click.Context(cli), name)\n"
        "assert not {'torch', 'ray'} & set(sys.modules), 'too much'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
