"""Health, metrics, and what a server must not import."""

import http.server
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.domain.asks import Why
from service.domain.errors import BadInput, Forbidden, NotFound, Unreachable
from service.domain.job import AttemptMove, JobState
from service.domain.records import Reason
from service.http.client import Client
from service.http.fleet_metrics import fleet_metrics
from service.store import schema
from tests.service.http.conftest import Doors
from tests.service.http.test_machines import Live, live
from tests.service.http.test_people import ENDED, PROGRESS, STAGE, STARTED

__all__ = ["live"]

SERVED = """
from fastapi import FastAPI
from service.http.waiting import Closing
from service.http.server import Server, bind
app = FastAPI()
app.state.closing = Closing()
listener = bind("127.0.0.1", 0)
print(listener.getsockname()[1], flush=True)
Server(app).run([listener])
print("what follows", app.state.closing.is_closing, flush=True)
"""


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
    assert series(doors)["strata_database_up", ()] == 1
    for n in range(3):
        doors.submit(f"k{n}")
    found = series(doors)
    labels = (("queue", "default"), ("state", "queued"))
    assert found["strata_jobs", labels] == 3
    told = {dict(its)["state"] for name, its in found if name == "strata_jobs"}
    assert told == set(JobState), "a state without jobs is a zero, and not a gap"
    assert found["strata_jobs_submitted_total", (("queue", "default"),)] == 3
    assert found["strata_job_oldest_queued_timestamp_seconds", (("queue", "default"),)] > 1e9


def test_a_jobs_series_are_there_while_it_runs_and_for_a_while_after(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = doors.running()
    doors.report(job, STARTED, STAGE, PROGRESS)
    labels = (("job_id", job["id"]),)
    found = series(doors)
    assert found["strata_train_loss", labels] == 2.25
    assert found["strata_train_samples_total", labels] == 1400
    assert found["strata_train_world_size", labels] == 2
    doors.report(job, ENDED, first=4)
    assert series(doors)["strata_train_loss", labels] == 2.25, "it may not be scraped yet"
    assert found["strata_train_data_wait_seconds_total", labels] == 0.001
    assert found["strata_train_nonfinite_steps_total", labels] == 0
    assert ("strata_train_reconstruction_error", labels) not in found, "a fine-tuning rebuilds none"
    monkeypatch.setattr("service.http.fleet_metrics.SERIES_GRACE", timedelta(0))
    found = series(doors)
    assert not [name for name, its in found if its == labels]
    assert found["strata_jobs_finished_total", (("outcome", "succeeded"),)] == 1


def test_what_a_stage_rebuilds_and_what_its_layers_show_is_told(doors: Doors) -> None:
    job = doors.running()
    looks = {f"{kind}.layer-{k}": k + 0.5 for k in range(5) for kind in ("grad_norm", "dead")}
    looked = {**PROGRESS, "metrics": {"grad_norm": 4.0, "nonfinite_steps": 3, **looks}}
    doors.report(job, STARTED, {**STAGE, "kind": "denoising_autoencoder"}, looked, PROGRESS)
    labels = (("job_id", job["id"]),)
    found = series(doors)
    assert found["strata_train_reconstruction_error", labels] == 2.25
    assert found["strata_train_grad_norm", labels] == 4.0, "the last line did not bring it"
    assert found["strata_train_nonfinite_steps_total", labels] == 3
    assert not any("layer" in dict(its) for _, its in found), "for those who ask for them only"
    for asked, told in ((1, [0]), (3, [0, 2, 4]), (64, [0, 1, 2, 3, 4])):
        by_name = {
            family.name: {sample.labels["layer"]: sample.value for sample in family.samples}
            for family in fleet_metrics(doors.service.store, asked)
            if family.name.startswith("strata_train_layer_")
        }
        expected = {f"layer-{k}": k + 0.5 for k in told}
        assert by_name == {
            "strata_train_layer_grad_norm": expected,
            "strata_train_layer_dead_unit_ratio": expected,
        }


def test_a_checkpoint_that_is_not_there_when_it_is_wanted_is_counted_by_why(doors: Doors) -> None:
    job = doors.running()
    ref = {"path": "jobs/x", "manifest_sha256": "ab" * 32, "stage": "s", "stage_index": 0}
    figures = {"bytes": 1, "files": 1, "save_seconds": 1.0, "stall_seconds": 0.0}
    notices = [
        {"fact": "noticed", "code": code, "sentence": "."}
        for code in ("checkpoint_failed", "checkpoint_fallback", "checkpoint_failed", "other")
    ]
    wrote = {"fact": "checkpoint", "ref": {**ref, "step": 1, "attempt": 1}, **figures}
    outcome = {"result": "failed", "failure": "storage", "message": "full"}
    before = series(doors)
    told = doors.report(job, STARTED, *notices, wrote, {"fact": "ended", "outcome": outcome})
    assert told.status_code == 200, told.text
    after = series(doors)
    name = "strata_checkpoint_failures_total"
    counts = {dict(its)["reason"]: value for (key, its), value in after.items() if key == name}
    assert counts == {"not_saved": 2, "damaged": 1, "refused": 1, "storage": 1}
    assert all(before[name, (("reason", reason),)] == 0 for reason in counts)


def test_capacity_sums_up_and_a_silent_agents_is_unreachable(doors: Doors) -> None:
    doors.running(resources={"workers": 1})

    def of_cluster(state: str) -> float:
        return series(doors)["strata_cluster_cpus", (("agent", "a1"), ("state", state))]

    assert [of_cluster(state) for state in ("allocated", "free", "unreachable")] == [1, 1, 0]
    assert series(doors)["strata_queue_allocated_cpus", (("queue", "default"),)] == 1
    with doors.service.store.write() as tx:
        tx.set_agent_silent("a1")
    assert [of_cluster(state) for state in ("allocated", "free", "unreachable")] == [1, 0, 1]
    assert series(doors)["strata_nodes", (("agent", "a1"), ("state", "silent"))] == 1


def test_a_lost_gang_whose_end_is_not_proved_is_an_orphan(doors: Doors) -> None:
    job = doors.running()
    orphans = ("strata_orphans", (("kind", "gang"),))
    assert series(doors)[orphans] == 0
    attempt = doors.service.store.attempt(job["id"], 1)
    assert attempt is not None
    with doors.service.store.write() as tx:
        tx.move_attempt(attempt, AttemptMove.LOSE, Why("test", Reason.SILENT, "silent"))
    assert series(doors)[orphans] == 1


def test_why_jobs_wait_is_counted(doors: Doors) -> None:
    doors.submit("k1")
    doors.submit("k2")
    doors.service.loop.turn()
    labels = (("queue", "default"), ("reason", "no_nodes"))
    assert series(doors)["strata_jobs_pending", labels] == 2


def test_the_fleet_is_told_by_the_leader_alone(doors: Doors) -> None:
    doors.submit()
    term = doors.service.loop._elector.term
    assert term is not None
    assert any(name == "strata_jobs" for name, _ in series(doors))
    doors.service.loop._elector.resign()
    found = series(doors)
    assert found["strata_controller_leader", ()] == 0
    assert found["strata_database_up", ()] == 1
    assert not any(name in ("strata_jobs", "strata_nodes") for name, _ in found)


def test_a_job_is_timed_from_its_submission_to_its_end(doors: Doors) -> None:
    job = doors.running()
    doors.report(job, STARTED, STAGE, PROGRESS, ENDED)
    found = series(doors)
    for name in ("queue_wait", "dispatch_latency", "run"):
        assert found[f"strata_job_{name}_seconds_count", ()] == 1
    assert found["strata_attempts_total", ()] == 1
    retries = {its: value for (name, its), value in found.items() if name == "strata_retries_total"}
    assert len(retries) > 1
    assert not any(retries.values())


def test_a_retry_is_counted_by_how_its_attempt_failed(doors: Doors) -> None:
    job = doors.running()
    outcome = {"result": "failed", "failure": "worker_died", "message": "rank 1 is gone"}
    doors.report(job, STARTED, {"fact": "ended", "outcome": outcome})
    found = series(doors)
    assert found["strata_retries_total", (("kind", "worker_died"),)] == 1
    assert found["strata_job_run_seconds_count", ()] == 0


def test_the_database_is_timed_by_the_kind_of_statement(doors: Doors) -> None:
    doors.submit()
    found = series(doors)
    for op in ("select", "insert"):
        assert found["strata_db_query_seconds_count", (("op", op),)] > 0
    [revision] = [its for name, its in found if name == "strata_schema_revision_info"]
    assert revision == (("revision", schema.check(doors.service.engine).head),)


def test_requests_are_counted_by_route_and_not_by_path(doors: Doors) -> None:
    job = doors.submit()
    doors.get(f"/v1/jobs/{job['id']}")
    found = series(doors)
    labels = (("method", "GET"), ("route", "/v1/jobs/{ref}"), ("status", "200"))
    assert found["strata_http_requests_total", labels] == 1
    assert not [labels for _, labels in found if any(job["id"] in value for _, value in labels)]


def test_a_failure_is_counted_and_a_strange_method_makes_no_series(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(type(doors.service.store), "nodes", broken)
    assert doors.get("/v1/nodes").status_code == 500
    monkeypatch.undo()
    for method in ("BREW", "PROPFIND"):
        assert doors.http.request(method, "/v1/jobs").status_code == 405
    found = series(doors)
    failed = (("method", "GET"), ("route", "/v1/nodes"), ("status", "500"))
    strange = (("method", "other"), ("route", "/v1/jobs"), ("status", "405"))
    assert found["strata_http_requests_total", failed] == 1
    assert found["strata_http_requests_total", strange] == 2


def test_metrics_are_there_while_the_database_is_not(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unreachable("the database does not answer")

    doors.submit()
    monkeypatch.setattr(type(doors.service.store), "holdings", away)
    monkeypatch.setattr("service.store.schema.reading", away)
    found = series(doors)
    assert found["strata_database_up", ()] == 0
    assert ("strata_controller_leader", ()) in found
    assert not [name for name, _ in found if name.startswith("strata_jobs")]


def test_health_needs_no_token_and_tells_of_a_loop_that_died(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doors.http.get("/healthz").status_code == 200
    assert doors.http.get("/readyz").json() == {"status": "the schema is current"}
    monkeypatch.setattr(doors.service.loop, "_turned_at", float("-inf"))
    assert doors.http.get("/healthz").status_code == 503


def test_the_api_is_published_with_the_shape_of_every_answer(doors: Doors) -> None:
    page = doors.http.get("/v1/openapi.json").json()
    assert page["info"]["title"] == "Strata"
    calls = {
        (method, path): call
        for path, methods in page["paths"].items()
        for method, call in methods.items()
        if path.startswith("/v1/")
    }
    assert len(calls) > 12
    for call in calls.values():
        [answer] = [told for status, told in call["responses"].items() if status[0] == "2"]
        assert answer["content"]["application/json"]["schema"]["$ref"]
        assert call["security"] == [{"HTTPBearer": []}]
        assert call["description"]
    job = page["components"]["schemas"]["Job"]["properties"]
    assert {"id", "state", "reason_text", "spec"} <= set(job)


def test_who_has_no_token_is_told_how_to_come_in(doors: Doors) -> None:
    answer = doors.get("/v1/jobs", "nobody")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["remedy"] == "set STRATA_TOKEN"


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


@pytest.fixture
def proxy() -> Iterator[str]:
    """Something that answers, and is no Strata."""

    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(502)
            self.end_headers()
            self.wfile.write(b'"bad gateway"')

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_proxys_page_is_not_taken_for_an_answer(proxy: str) -> None:
    with pytest.raises(Unreachable, match="answers 502, and not as Strata does"):
        Client(proxy, "t").get("/v1/jobs")


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_what_follows_the_server_is_done_after_a_signal(told: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVED], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        httpx.get(f"http://127.0.0.1:{port}/", timeout=30, trust_env=False)  # it serves now
        server.send_signal(told)
        rest, _ = server.communicate(timeout=30)
    assert (server.returncode, rest) == (0, "what follows True\n")


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
