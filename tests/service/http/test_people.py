"""The routes for people: a job's whole course, and refusals in one shape."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.bootstrap import open_jobs
from service.http.app import BODY_BYTES_MAX
from service.http.auth import make_token
from service.http.shapes import to_json
from service.settings import read_settings
from tests.service.http.conftest import SPEC, Doors

STARTED = {"fact": "gang_started", "world_size": 2}
STAGE = {
    "fact": "stage_started",
    "index": 0,
    "count": 1,
    "name": "finetune",
    "kind": "finetune",
    "epochs": 3,
    "steps_per_epoch": 14,
}
PROGRESS = {
    "fact": "progress",
    "stage_index": 0,
    "epoch": 1,
    "stage_step": 14,
    "step": 14,
    "loss": 2.25,
    "lr": 0.1,
    "samples": 1400,
    "samples_per_second": 5000.0,
    "step_seconds": 0.02,
    "data_wait_seconds": 0.001,
    "eta_seconds": 3.0,
}
ENDED: dict[str, Any] = {
    "fact": "ended",
    "outcome": {"result": "succeeded", "metrics": {"test_error": 2.5}, "seconds": 9.0},
}


def test_a_job_is_submitted_watched_and_done(doors: Doors) -> None:
    job = doors.running()
    assert doors.report(job, STARTED, STAGE, PROGRESS).json()["held"] == 3
    status = doors.get(f"/v1/jobs/{job['id'][-8:]}", "viewer").json()
    assert status["job"]["state"] == "running"
    assert status["latest"]["progress"]["loss"] == 2.25
    assert [stage["name"] for stage in status["stages"]] == ["finetune"]
    doors.report(job, ENDED, first=4)
    status = doors.get(f"/v1/jobs/{job['id']}").json()
    assert (status["job"]["state"], status["job"]["metrics"]) == ("succeeded", {"test_error": 2.5})
    moves = [event["move"] for event in doors.get("/v1/jobs/@latest/events").json()["events"]]
    assert moves == ["submit", "reserve", "reserve", "claim", "start", "stop", "succeed"]
    curve = doors.get("/v1/jobs/@latest/metrics").json()["measurements"]
    assert [line["progress"]["step"] for line in curve] == [14]
    first = curve[0]["id"]
    earlier = doors.get("/v1/jobs/@latest/metrics", before=first).json()["measurements"]
    assert earlier == []


def test_the_same_key_gives_the_same_job_and_another_spec_a_conflict(doors: Doors) -> None:
    first = doors.post("/v1/jobs", {"spec": SPEC, "key": "one"})
    again = doors.post("/v1/jobs", {"spec": SPEC, "key": "one"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["job"]["id"] == first.json()["job"]["id"]
    other = doors.post("/v1/jobs", {"spec": {**SPEC, "seed": 1}, "key": "one"})
    assert other.status_code == 409
    assert len(doors.get("/v1/jobs").json()["jobs"]) == 1


def test_a_dry_run_stores_nothing(doors: Doors) -> None:
    answer = doors.post("/v1/jobs/dry-run", {"spec": SPEC}).json()
    assert (answer["starts"], answer["reason"]) == (False, "no_nodes")
    doors.sync()
    assert doors.post("/v1/jobs/dry-run", {"spec": SPEC}).json()["starts"]
    assert doors.get("/v1/jobs").json() == {"jobs": []}


def test_jobs_are_filtered_and_paged(doors: Doors) -> None:
    ids = [doors.submit(f"k{n}", name=f"job-{n}")["id"] for n in range(5)]
    page = doors.get("/v1/jobs", limit=2).json()["jobs"]
    assert [job["id"] for job in page] == ids[:-3:-1]
    rest = doors.get("/v1/jobs", limit=10, before=page[-1]["seq"]).json()["jobs"]
    assert [job["id"] for job in rest] == ids[2::-1]
    doors.post(f"/v1/jobs/{ids[0]}/cancel")
    found = doors.get("/v1/jobs", state="cancelled").json()["jobs"]
    assert [job["id"] for job in found] == [ids[0]]
    assert [j["id"] for j in doors.get("/v1/jobs", name="job-3").json()["jobs"]] == [ids[3]]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "place"),
    [
        ("POST", "/v1/jobs", {"spec": {**SPEC, "sed": 1}, "key": "k"}, 422, "bad_input", "sed"),
        ("POST", "/v1/jobs", {"spec": SPEC}, 422, "bad_input", "body.key"),
        ("POST", "/v1/jobs", {"spec": SPEC, "key": ""}, 422, "bad_input", "body.key"),
        ("GET", "/v1/jobs?limit=0", None, 422, "bad_input", "query.limit"),
        ("GET", "/v1/jobs?state=nowhere", None, 422, "bad_input", "query.state.0"),
        (
            "GET",
            "/v1/jobs?before=99999999999999999999",
            None,
            422,
            "bad_input",
            "query.before",
        ),
        ("GET", "/v1/jobs/x/events?after=-1", None, 422, "bad_input", "query.after"),
        ("GET", "/v1/jobs/x/logs?attempt=9999999999", None, 422, "bad_input", "query.attempt"),
        ("GET", "/v1/jobs/ffffffff", None, 404, "not_found", ""),
        ("GET", "/v1/nowhere", None, 404, "not_found", ""),
        ("DELETE", "/v1/jobs", None, 405, "bad_input", ""),
        ("POST", "/v1/jobs/ffffffff/cancel", None, 404, "not_found", ""),
    ],
)
def test_refusals_have_one_shape(
    doors: Doors, method: str, path: str, body: Any, status: int, code: str, place: str
) -> None:
    answer = doors.http.request(method, path, json=body, headers=doors.headers("admin"))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"], problem["place"]) == (status, code, place)
    assert problem["sentence"] in problem["detail"]
    assert "\n" not in problem["detail"]
    assert doors.get("/v1/jobs").json() == {"jobs": []}


@pytest.mark.parametrize("tells_its_length", [True, False])
def test_a_body_beyond_the_limit_is_refused(doors: Doors, tells_its_length: bool) -> None:
    def parts() -> Iterator[bytes]:
        yield from [b" " * 1024] * (BODY_BYTES_MAX // 1024 + 1)

    body = b"".join(parts()) if tells_its_length else parts()
    answer = doors.http.post("/v1/jobs", content=body, headers=doors.headers("admin"))
    assert answer.status_code == 413
    assert str(BODY_BYTES_MAX) in answer.json()["sentence"]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"labels": {"a": "\ud800"}}, "spec.labels.a"),
        ({"env": {"A": "one\0two"}}, "spec.env.A"),
        ({"\udfff": 1}, "spec"),
        ({"model": {"hidden": ["\0"]}}, "spec.model.hidden"),
    ],
)
def test_what_could_never_be_shown_again_is_not_stored(
    doors: Doors, change: dict[str, Any], place: str
) -> None:
    doors.submit()
    body = json.dumps({"spec": {**SPEC, **change}, "key": "other"})  # with \\ud800, as JSON can
    headers = {**doors.headers("submitter"), "Content-Type": "application/json"}
    answer = doors.http.post("/v1/jobs", content=body, headers=headers)
    assert (answer.status_code, answer.json()["place"]) == (422, place)
    assert len(doors.get("/v1/jobs").json()["jobs"]) == 1


def test_a_key_is_text_and_a_spec_has_a_depth(doors: Doors) -> None:
    answer = doors.post("/v1/jobs", {"spec": SPEC, "key": "a\0"})
    assert (answer.status_code, answer.json()["place"]) == (422, "key")
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    answer = doors.post("/v1/jobs", {"spec": {**SPEC, "labels": deep}, "key": "k"})
    assert (answer.status_code, answer.json()["place"]) == (422, "spec.labels")
    assert "nests deeper" in answer.json()["sentence"]


def test_answers_are_the_records_that_the_command_line_shows_without_a_server(
    doors: Doors, tmp_path: Path
) -> None:
    job = doors.running(labels={"team": "vision"}, env={"A": "b"})
    doors.report(job, STARTED, STAGE, {**PROGRESS, "metrics": {"grad_norm": "Infinity"}})
    outcome = {**ENDED["outcome"], "metrics": {"test_error": "Infinity", "x": "NaN"}}
    doors.report(job, {**ENDED, "outcome": outcome}, first=4)
    jobs, _ = open_jobs(read_settings({"STRATA_HOME": str(tmp_path)}))
    ref = job["id"]
    assert doors.get(f"/v1/jobs/{ref}").json() == to_json(jobs.status(ref))
    assert doors.get("/v1/jobs").json()["jobs"] == to_json([jobs.find(ref)])
    assert doors.get(f"/v1/jobs/{ref}/events").json()["events"] == to_json(jobs.events(ref))
    curve = doors.get(f"/v1/jobs/{ref}/metrics").json()["measurements"]
    assert curve == to_json(jobs.measurements(ref, limit=9))
    assert curve[0]["progress"]["metrics"] == {"grad_norm": "Infinity"}
    [node] = doors.get("/v1/nodes").json()["nodes"]
    assert (node["agent"], node["node_id"], node["cpus"]) == ("a1", "n1", 2)


def test_a_person_of_one_project_meets_no_other_projects_job(doors: Doors) -> None:
    with doors.service.store.write() as tx:
        doors.tokens["ours"], token = make_token("ours", tx.now(), project="ours")
        tx.add_token(token)
    assert doors.get("/v1/jobs/@latest", "ours").status_code == 404
    ours = doors.submit("k1", project="ours")
    theirs = [doors.submit(f"k{n}", project="theirs")["id"] for n in (2, 3)]
    assert doors.get("/v1/jobs/@latest", "ours").json()["job"]["id"] == ours["id"]
    assert doors.get("/v1/jobs/@latest").json()["job"]["id"] == theirs[-1]
    assert doors.get(f"/v1/jobs/{theirs[0]}", "ours").status_code == 404
    assert doors.get("/v1/jobs/0", "ours").json()["job"]["id"] == ours["id"]
    doors.submit("k4", project="ours")
    unclear = doors.get("/v1/jobs/0", "ours")
    assert unclear.status_code == 422
    assert ours["id"] in unclear.text
    assert not [job for job in theirs if job in unclear.text]


def test_an_unexpected_error_shows_a_number_and_not_its_insides(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret is xyzzy")

    monkeypatch.setattr(type(doors.service.store), "agents", broken)
    answer = doors.get("/v1/nodes")
    assert answer.status_code == 500
    assert "xyzzy" not in answer.text
    assert "its log says why under" in answer.json()["detail"]


def test_a_held_job_is_released_and_a_final_one_is_not_cancelled(doors: Doors) -> None:
    job = doors.submit()
    assert doors.post(f"/v1/jobs/{job['id']}/hold").json()["state"] == "held"
    assert doors.post(f"/v1/jobs/{job['id']}/release").json()["state"] == "queued"
    assert doors.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    assert doors.post(f"/v1/jobs/{job['id']}/cancel").status_code == 409


def test_code_is_kept_by_its_hash_and_a_job_that_names_another_is_refused(doors: Doors) -> None:
    content = b"a pack"
    name = hashlib.sha256(content).hexdigest()
    for _ in range(2):
        kept = doors.http.put(f"/v1/code/{name}", content=content, headers=doors.headers("admin"))
        assert (kept.status_code, kept.json()) == (201, {"code": f"sha256:{name}"})
    assert doors.submit(code=f"sha256:{name}")["spec"]["code"] == f"sha256:{name}"
    for code, said in (("./mine", "strata submit"), (f"sha256:{'0' * 64}", "not on the storage")):
        refused = doors.post("/v1/jobs", {"spec": {**SPEC, "code": code}, "key": code})
        assert (refused.status_code, refused.json()["place"]) == (422, "code"), refused.text
        assert said in refused.text
    forged = doors.http.put(f"/v1/code/{name}", content=b"x", headers=doors.headers("admin"))
    assert forged.status_code == 422
