"""Every route against every kind of token: what is not allowed here is not allowed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.domain.records import Role
from tests.service.http.conftest import BOOT, SPEC, Doors, opened

READERS = {"viewer", "submitter", "operator", "admin", "elsewhere"}
WRITERS = READERS - {"viewer"}
SYNC = {"cluster_id": "c1", "boot_id": BOOT, "nodes": [], "gangs": []}
CLAIM = {"boot_id": BOOT, "job_id": "x", "attempt": 1, "token_sha256": "0" * 64}

ROUTES: list[tuple[str, str, Any, set[str]]] = [
    ("POST", "/v1/jobs", {"spec": SPEC, "key": "route"}, WRITERS - {"elsewhere"}),
    ("POST", "/v1/jobs/dry-run", {"spec": SPEC}, WRITERS - {"elsewhere"}),
    ("PUT", "/v1/code/{code}", {}, WRITERS),
    ("GET", "/v1/jobs", None, READERS),
    ("GET", "/v1/nodes", None, READERS),
    ("GET", "/v1/jobs/{job}", None, READERS - {"elsewhere"}),
    ("GET", "/v1/jobs/{job}/events", None, READERS - {"elsewhere"}),
    ("GET", "/v1/jobs/{job}/diagnosis", None, READERS - {"elsewhere"}),
    ("GET", "/v1/jobs/{job}/metrics", None, READERS - {"elsewhere"}),
    ("GET", "/v1/jobs/{job}/checkpoints", None, READERS - {"elsewhere"}),
    ("GET", "/v1/jobs/{job}/logs", None, READERS - {"elsewhere"}),
    ("POST", "/v1/jobs/{job}/checkpoints/verify", {}, READERS - {"elsewhere"}),
    ("POST", "/v1/jobs/{job}/checkpoints/pin", {}, WRITERS - {"elsewhere"}),
    ("POST", "/v1/jobs/{job}/profile", {}, WRITERS - {"elsewhere"}),
    ("POST", "/v1/jobs/{job}/hold", None, WRITERS - {"elsewhere"}),
    ("POST", "/v1/jobs/{job}/cancel", None, WRITERS - {"elsewhere"}),
    ("POST", "/v1/agents/a1/sync", SYNC, {"agent"}),
    ("POST", "/v1/agents/a1/claims", CLAIM, {"agent"}),
    ("POST", "/v1/attempts/{job}/1/reports", {}, {"gang"}),
]
KINDS = ["nobody", "stranger", "agent", "other agent", "gang", "elsewhere", *Role]


@pytest.fixture(scope="module")
def busy(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> Iterator[tuple[Doors, str]]:
    """One server for the whole matrix, and a job that runs there until somebody may cancel it."""
    with opened(tmp_path_factory.mktemp("home"), sqlite_template) as doors:
        yield doors, doors.running()["id"]


@pytest.mark.parametrize("who", KINDS)
@pytest.mark.parametrize(
    ("method", "path", "body", "allowed"), ROUTES, ids=[f"{r[0]} {r[1]}" for r in ROUTES]
)
def test_a_token_opens_its_own_doors_only(
    busy: tuple[Doors, str], who: str, method: str, path: str, body: Any, allowed: set[str]
) -> None:
    doors, job_id = busy
    call = doors.http.request(
        method, path.format(job=job_id, code="0" * 64), json=body, headers=doors.headers(who)
    )
    if who in allowed:
        assert call.status_code not in (401, 403), call.text
    elif who in ("nobody", "stranger"):
        assert call.status_code == 401
    else:
        assert call.status_code in (401, 403, 404), call.text
        assert call.json()["code"] in ("forbidden", "not_found")


def test_the_matrix_has_every_route(doors: Doors) -> None:
    published = doors.http.get("/v1/openapi.json").json()["paths"]
    routes = {
        (method.upper(), path)
        for path, methods in published.items()
        for method in methods
        if path.startswith("/v1/")
    }
    tested = {
        (
            method,
            path.replace("{job}", "{ref}")
            .replace("/a1/", "/{name}/")
            .replace("{code}", "{sha256}"),
        )
        for method, path, _, _ in ROUTES
    }
    tested = {(m, p.replace("/hold", "/{act}").replace("/cancel", "/{act}")) for m, p in tested}
    tested = {
        (m, "/v1/attempts/{job_id}/{number}/reports" if "attempts" in p else p) for m, p in tested
    }
    assert routes == tested


def test_a_revoked_token_opens_nothing(doors: Doors) -> None:
    assert doors.get("/v1/jobs", "viewer").status_code == 200
    with doors.service.store.write() as tx:
        assert tx.revoke_token("viewer") == 1
    assert doors.get("/v1/jobs", "viewer").status_code == 401


def test_another_project_sees_no_job(doors: Doors) -> None:
    doors.submit()
    assert doors.get("/v1/jobs", "elsewhere").json() == {"jobs": []}
    assert len(doors.get("/v1/jobs", "admin").json()["jobs"]) == 1


def test_a_gangs_token_is_closed_with_its_attempt(doors: Doors) -> None:
    job = doors.running()
    assert doors.report(job).status_code == 200
    absent = {"job_id": job["id"], "attempt": 1, "state": "absent"}
    doors.sync(gangs=[absent])
    closed = doors.report(job)
    assert closed.status_code == 410
    assert closed.json()["code"] == "closed"
