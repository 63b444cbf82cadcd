"""The routes for agents and gangs, on a real server where they wait."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from service.http.server import Server, bind
from tests.service.http.conftest import Doors

PATIENCE_SECONDS = 10.0


@dataclass
class Live:
    """A server on a real port."""

    url: str
    doors: Doors
    server: Server
    thread: threading.Thread

    def sync(self, known: str, wait_seconds: float) -> dict[str, Any]:
        body = {
            "cluster_id": "c1",
            "boot_id": "b1",
            "nodes": [{"node_id": "n1", "host": "h", "cpus": 2, "gpus": 0}],
            "gangs": [],
            "known": known,
            "wait_seconds": wait_seconds,
        }
        answer = httpx.post(
            f"{self.url}/v1/agents/a1/sync",
            json=body,
            headers=self.doors.headers("agent"),
            timeout=30,
            trust_env=False,
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
def live(doors: Doors) -> Iterator[Live]:
    listener = bind("127.0.0.1", 0)
    server = Server(doors.service.app)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield Live(f"http://127.0.0.1:{listener.getsockname()[1]}", doors, server, thread)
    server.should_exit = True
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def asked(live: Live, known: str) -> tuple[threading.Thread, list[dict[str, Any]]]:
    """A long-poll in the background, that is known to have reached the server."""
    answers: list[dict[str, Any]] = []
    before = live.sync(known, 0.0)["revision"]
    thread = threading.Thread(target=lambda: answers.append(live.sync(known, 20.0)))
    thread.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    closing = live.doors.service.app.state.closing
    while not closing.waiting:
        assert time.monotonic() < deadline, before
        threading.Event().wait(0.01)
    return thread, answers


def test_a_waiting_agent_hears_of_a_job_at_once(live: Live) -> None:
    known = live.sync("", 0.0)["fingerprint"]
    thread, answers = asked(live, known)
    began = time.monotonic()
    job = live.doors.submit()
    live.doors.service.loop.turn()
    thread.join(PATIENCE_SECONDS)
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert [gang["job_id"] for gang in answers[0]["gangs"]] == [job["id"]]
    assert answers[0]["gangs"][0]["unclaimed"]


def test_revisions_grow_with_every_answer(live: Live) -> None:
    revisions = [live.sync("", 0.0)["revision"] for _ in range(3)]
    assert revisions == sorted(set(revisions))


def test_a_waiting_agent_is_answered_when_the_server_stops(live: Live) -> None:
    known = live.sync("", 0.0)["fingerprint"]
    thread, answers = asked(live, known)
    live.server.should_exit = True
    thread.join(PATIENCE_SECONDS)
    assert answers, "the long-poll was cut off"
    assert answers[0]["fingerprint"] == known


def test_an_attempt_is_claimed_once(doors: Doors) -> None:
    job = doors.running()
    claim = {
        "boot_id": "01900000-0000-7000-8000-000000000001",
        "job_id": job["id"],
        "attempt": 1,
        "token_sha256": "0" * 64,
    }
    assert doors.post("/v1/agents/a1/claims", claim, "agent").status_code == 410


def test_an_older_boot_of_an_agent_is_told_to_go(doors: Doors) -> None:
    doors.sync(boot_id="01900000-0000-7000-8000-000000000009")
    body = {"cluster_id": "c1", "boot_id": "01900000-0000-7000-8000-000000000001"}
    answer = doors.post("/v1/agents/a1/sync", {**body, "nodes": [], "gangs": []}, "agent")
    assert answer.status_code == 409


def test_a_repeated_report_counts_once_and_unknown_keys_are_ignored(doors: Doors) -> None:
    job = doors.running()
    noticed = {"fact": "noticed", "code": "hello", "sentence": "Hello.", "from_the_future": 1}
    for _ in range(3):
        assert doors.report(job, noticed).json()["held"] == 1
    events = doors.get(f"/v1/jobs/{job['id']}/events").json()["events"]
    assert [event["reason"] for event in events].count("hello") == 1


def test_a_cancelled_gang_is_told_in_the_answer_to_its_report(doors: Doors) -> None:
    job = doors.running()
    assert doors.report(job).json()["stop"] is None
    doors.post(f"/v1/jobs/{job['id']}/cancel")
    stop = doors.report(job).json()["stop"]
    assert stop["reason"] == "cancel"
    assert 0 < stop["grace_seconds"] <= 60
