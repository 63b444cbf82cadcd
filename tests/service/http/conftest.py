"""A whole server on a database file, asked in process; its loop turns when the test says so."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.bootstrap import Service, build
from service.domain.records import Role
from service.http.auth import make_token, sha256_of
from service.settings import read_settings
from workers.contract.inventory import NodeSeen, Sync

SPEC: dict[str, Any] = {
    "name": "digits",
    "resources": {"workers": 2},
    "data": {"source": "digits"},
    "model": {"kind": "mlp", "hidden": [8]},
}
NODE = NodeSeen(node_id="n1", host="h1", cpus=2, gpus=0)
BOOT = "01900000-0000-7000-8000-000000000001"


@dataclass
class Doors:
    """A server, and who may knock."""

    service: Service
    http: TestClient
    tokens: dict[str, str]

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[who]}"} if who in self.tokens else {}

    def get(self, path: str, who: str = "admin", **query: Any) -> Any:
        return self.http.get(path, headers=self.headers(who), params=query)

    def post(self, path: str, body: Any = None, who: str = "admin") -> Any:
        return self.http.post(path, headers=self.headers(who), json=body)

    def submit(self, key: str = "k", **changes: Any) -> dict[str, Any]:
        answer = self.post("/v1/jobs", {"spec": {**SPEC, **changes}, "key": key})
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()["job"]
        return job

    def sync(self, **changes: Any) -> dict[str, Any]:
        told = Sync(cluster_id="c1", boot_id=BOOT, nodes=(NODE,), gangs=())
        body = {**told.model_dump(mode="json"), **changes}
        answer = self.post("/v1/agents/a1/sync", body, "agent")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def running(self, key: str = "k", **changes: Any) -> dict[str, Any]:
        """A job whose gang is claimed; its token is the gang's."""
        self.sync()
        job = self.submit(key, **changes)
        self.service.loop.turn()
        self.tokens["gang"] = f"gang-token-{key}"
        claim = {
            "boot_id": BOOT,
            "job_id": job["id"],
            "attempt": 1,
            "token_sha256": sha256_of(self.tokens["gang"]),
        }
        answer = self.post("/v1/agents/a1/claims", claim, "agent")
        assert answer.status_code == 200, answer.text
        return job

    def report(self, job: dict[str, Any], *facts: dict[str, Any], first: int = 1) -> Any:
        numbered = [
            {"seq": first + n, "at": "2026-11-01T12:00:00Z", "body": body}
            for n, body in enumerate(facts)
        ]
        return self.post(f"/v1/attempts/{job['id']}/1/reports", {"facts": numbered}, "gang")


@pytest.fixture
def doors(tmp_path: Path, sqlite_template: Path) -> Iterator[Doors]:
    with opened(tmp_path, sqlite_template) as found:
        yield found


@contextmanager
def opened(home: Path, template: Path) -> Iterator[Doors]:
    """A server in an empty folder, with somebody of each kind."""
    shutil.copy(template, home / "strata.db")
    (home / "storage").mkdir()
    service = build(read_settings({"STRATA_HOME": str(home)}))
    service.loop.turn()  # it leads
    tokens: dict[str, str] = {}
    people: dict[str, tuple[Role, str | None]] = {role.value: (role, None) for role in Role}
    people["elsewhere"] = (Role.ADMIN, "other-project")
    with service.store.write() as tx:
        for name, (role, project) in people.items():
            tokens[name], token = make_token(name, tx.now(), role=role, project=project)
            tx.add_token(token)
        for name, agent in (("agent", "a1"), ("other agent", "a2")):
            tokens[name], token = make_token(agent, tx.now(), is_agent=True)
            tx.add_token(token)
    tokens["stranger"] = "strata_nobody"
    with TestClient(service.app, raise_server_exceptions=False) as http:
        yield Doors(service, http, tokens)
    service.close()
