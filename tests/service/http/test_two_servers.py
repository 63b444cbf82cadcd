"""Two servers on one database and one Redis: whichever is asked, the answer comes in time."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bootstrap import Service, build
from service.domain.records import Role
from service.http.auth import make_token, sha256_of
from service.http.server import Server, bind
from service.settings import read_settings
from service.store import schema
from service.store.engine import open_engine
from tests.redis_server import RedisServer
from tests.service.http.conftest import BOOT, NODE, SPEC
from tests.waiting import eventually
from workers.contract.inventory import Sync

PATIENCE_SECONDS = 30.0
AT_ONCE_SECONDS = 10.0  # far below a long-poll's 20 s: only a wake-up or a poll explains it
REPORT = [
    {"fact": "gang_started", "world_size": 1},
    {"fact": "noticed", "code": "hello", "sentence": "Hello."},
]


@dataclass
class Replica:
    """One of the servers, on a real port."""

    service: Service
    server: Server
    thread: threading.Thread
    url: str
    tokens: dict[str, str]

    def ask(self, method: str, path: str, who: str, body: Any = None, **query: Any) -> Any:
        answer = httpx.request(
            method,
            f"{self.url}{path}",
            json=body,
            params=query,
            headers={"Authorization": f"Bearer {self.tokens[who]}"},
            timeout=PATIENCE_SECONDS,
            trust_env=False,
        )
        assert answer.is_success, answer.text
        return answer.json()

    def sync(self, known: str = "", wait_seconds: float = 0.0) -> dict[str, Any]:
        told = Sync(
            cluster_id="c1",
            boot_id=BOOT,
            nodes=(NODE,),
            gangs=(),
            known=known,
            wait_seconds=wait_seconds,
        )
        path = "/v1/agents/a1/sync"
        answer: dict[str, Any] = self.ask("POST", path, "agent", told.model_dump(mode="json"))
        return answer

    @property
    def waiters(self) -> int:
        return len(self.service.app.state.closing.waiting)

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive()
        self.service.close()


@dataclass
class Two:
    """Both servers, and their Redis; nothing of what they share is in this process."""

    one: Replica
    other: Replica
    redis: RedisServer

    def leader_and_follower(self) -> tuple[Replica, Replica]:
        both = (self.one, self.other)
        eventually(lambda: sum(one.service.loop.is_leader for one in both) == 1)
        leads = self.one.service.loop.is_leader
        return both if leads else (self.other, self.one)

    def submit(self, at: Replica) -> str:
        spec = {**SPEC, "resources": {"workers": 1}}
        answer = at.ask("POST", "/v1/jobs", "admin", {"spec": spec, "key": "k"})
        return str(answer["job"]["id"])


@pytest.fixture
def two(tmp_path: Path, postgres_url: str, redis_server: RedisServer) -> Iterator[Two]:
    engine = open_engine(postgres_url)
    schema.upgrade(engine)
    engine.dispose()
    (tmp_path / "storage").mkdir()
    settings = read_settings(
        {
            "STRATA_HOME": str(tmp_path),
            "STRATA_DATABASE_URL": postgres_url,
            "STRATA_REDIS_URL": redis_server.url,
        }
    )
    tokens: dict[str, str] = {}
    replicas = []
    for _ in range(2):
        service, listener = build(settings), bind("127.0.0.1", 0)
        server = Server(service.app)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        replicas.append(Replica(service, server, thread, url, tokens))
    with replicas[0].service.store.write() as tx:
        tokens["admin"], admin = make_token("eva", tx.now(), role=Role.ADMIN)
        tokens["agent"], agent = make_token("a1", tx.now(), is_agent=True)
        for token in (admin, agent):
            tx.add_token(token)
    for replica in replicas:
        replica.service.start()
        replica.thread.start()
    eventually(lambda: all(one.service.bus.trouble is None for one in replicas))
    yield Two(replicas[0], replicas[1], redis_server)
    for replica in replicas:
        replica.end()


def in_background(act: Callable[[], Any]) -> "Future[Any]":
    return ThreadPoolExecutor(1).submit(act)


def waiting_agent(replica: Replica) -> "Future[Any]":
    """An agent's long-poll that is known to wait."""
    known = replica.sync()["fingerprint"]
    answer = in_background(lambda: replica.sync(known, 20.0))
    eventually(lambda: replica.waiters == 1)
    return answer


def test_one_leads_and_each_answers_everything(two: Two) -> None:
    leader, follower = two.leader_and_follower()
    job_id = two.submit(follower)
    assert leader.ask("GET", f"/v1/jobs/{job_id}", "admin")["job"]["state"] == "queued"


def test_an_agent_that_waits_at_the_follower_hears_of_the_leaders_grant_at_once(two: Two) -> None:
    _, follower = two.leader_and_follower()
    answer = waiting_agent(follower)
    job_id = two.submit(follower)
    gangs = answer.result(AT_ONCE_SECONDS)["gangs"]
    assert [gang["job_id"] for gang in gangs] == [job_id]


def test_events_are_followed_at_another_server_than_the_gang_reports_to(two: Two) -> None:
    leader, follower = two.leader_and_follower()
    answer = waiting_agent(leader)
    job_id = two.submit(leader)
    answer.result(AT_ONCE_SECONDS)
    two.one.tokens["gang"] = "gang-token"
    claim = {
        "boot_id": BOOT,
        "job_id": job_id,
        "attempt": 1,
        "token_sha256": sha256_of("gang-token"),
    }
    leader.ask("POST", "/v1/agents/a1/claims", "agent", claim)
    path = f"/v1/jobs/{job_id}/events"
    last = follower.ask("GET", path, "admin")["events"][-1]["id"]
    page = in_background(
        lambda: follower.ask("GET", path, "admin", after=last, wait_seconds=20.0)["events"]
    )
    eventually(lambda: follower.waiters == 1)
    facts = [{"seq": n, "at": "2026-11-01T12:00:00Z", "body": b} for n, b in enumerate(REPORT, 1)]
    leader.ask("POST", f"/v1/attempts/{job_id}/1/reports", "gang", {"facts": facts})
    assert "hello" in [event["reason"] for event in page.result(AT_ONCE_SECONDS)]


@pytest.mark.parametrize("fault", ["kill", "freeze", "flush"])
def test_without_redis_a_waiting_agent_is_a_poll_late_and_no_more(two: Two, fault: str) -> None:
    _, follower = two.leader_and_follower()
    answer = waiting_agent(follower)
    if fault == "flush":
        two.redis.client.flushall()
    else:
        getattr(two.redis, fault)()
        eventually(lambda: follower.service.bus.trouble is not None)
        assert "degraded" in httpx.get(f"{follower.url}/readyz", trust_env=False).json()
        assert "strata_redis_up 0.0" in httpx.get(f"{follower.url}/metrics", trust_env=False).text
    job_id = two.submit(follower)
    gangs = answer.result(AT_ONCE_SECONDS)["gangs"]
    assert [gang["job_id"] for gang in gangs] == [job_id]


def test_what_is_published_into_a_frozen_redis_is_late_until_that_is_noticed(two: Two) -> None:
    _, follower = two.leader_and_follower()
    answer = waiting_agent(follower)
    two.redis.freeze()
    assert follower.service.bus.trouble is None
    job_id = two.submit(follower)
    gangs = answer.result(AT_ONCE_SECONDS)["gangs"]
    assert [gang["job_id"] for gang in gangs] == [job_id]


def test_when_the_leader_ends_the_other_leads_and_grants(two: Two) -> None:
    leader, follower = two.leader_and_follower()
    leader.service.loop.stop()
    eventually(lambda: follower.service.loop.is_leader)
    answer = waiting_agent(follower)
    two.submit(leader)
    assert answer.result(AT_ONCE_SECONDS)["gangs"]


def test_only_the_leader_tells_of_the_fleet(two: Two) -> None:
    leader, follower = two.leader_and_follower()
    two.submit(follower)
    told = {
        replica.url: httpx.get(f"{replica.url}/metrics", trust_env=False).text
        for replica in (leader, follower)
    }
    assert "strata_jobs{" in told[leader.url]
    assert "strata_jobs{" not in told[follower.url]
    assert "strata_redis_up 1.0" in told[follower.url]
