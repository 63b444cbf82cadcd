"""The service as agents and gangs see it: a real little HTTP server that can be away and refuse."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from workers.contract.launch import LaunchSpec

PATIENCE_SECONDS = 20.0

Answer = tuple[int, dict[str, Any]]


class StandIn:
    """Keeps what it is told; tests set what it answers, with `changed` held."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.changed = threading.Condition()
        self.is_away = False
        self.is_closed = False  # to gangs
        self.is_forgetful = False  # answers, and holds nothing
        self.stop: dict[str, Any] | None = None
        self.told: dict[str, list[dict[str, Any]]] = {}  # facts by "<job>/<attempt>"
        self.requests = 0
        self.refused = 0
        self.wanted: dict[str, LaunchSpec] = {}
        self.claimed: dict[str, str] = {}  # the hashes of gangs' tokens
        self.kills: list[dict[str, Any]] = []
        self.num_claims = 0
        self.syncs: list[dict[str, Any]] = []

    @property
    def facts(self) -> list[dict[str, Any]]:
        """All facts, for tests with one gang."""
        return [fact for facts in self.told.values() for fact in facts]

    def answer(self, path: str, body: dict[str, Any], token: str) -> Answer:
        with self.changed:
            self.requests += 1
            try:
                if self.is_away:
                    self.refused += 1
                    return 503, {"detail": "away"}
                *_, name, attempt, door = path.split("/")
                if door == "sync":
                    return self._sync(body)
                if door == "claims":
                    return self._claim(body)
                return self._report(f"{name}/{attempt}", body, token)
            finally:
                self.changed.notify_all()

    def _report(self, key: str, body: dict[str, Any], token: str) -> Answer:
        if self.is_closed:
            return 410, {"detail": "closed"}
        if key in self.claimed and hashlib.sha256(token.encode()).hexdigest() != self.claimed[key]:
            return 403, {"detail": "another's token"}
        if self.is_forgetful:
            return 200, {"held": 0, "stop": None}
        facts = self.told.setdefault(key, [])
        held = facts[-1]["seq"] if facts else 0
        facts += [fact for fact in body["facts"] if fact["seq"] > held]
        return 200, {"held": facts[-1]["seq"] if facts else 0, "stop": self.stop}

    def _sync(self, body: dict[str, Any]) -> Answer:
        self.syncs.append(body)
        self.changed.notify_all()
        self.changed.wait_for(
            lambda: self._is_replaced(body) or self._should()["fingerprint"] != body["known"],
            body["wait_seconds"],
        )
        if self._is_replaced(body):
            return 409, {"detail": "a newer agent has taken over"}
        return 200, {"revision": self.requests, **self._should()}

    def _is_replaced(self, body: dict[str, Any]) -> bool:
        return bool(body["boot_id"] < max(sync["boot_id"] for sync in self.syncs))

    def _should(self) -> dict[str, Any]:
        gangs = [
            {
                "job_id": launch.job_id,
                "attempt": launch.attempt,
                "unclaimed": key not in self.claimed,
            }
            for key, launch in self.wanted.items()
        ]
        words = {"gangs": gangs, "stops": self.kills}
        return {"fingerprint": hashlib.sha256(json.dumps(words).encode()).hexdigest(), **words}

    def _claim(self, body: dict[str, Any]) -> Answer:
        self.num_claims += 1
        key = f"{body['job_id']}/{body['attempt']}"
        if key in self.claimed:
            return 410, {"detail": "claimed already"}
        self.claimed[key] = body["token_sha256"]
        return 200, json.loads(self.wanted[key].model_dump_json())

    def wait(self, look: Callable[[], Any], what: str) -> None:
        with self.changed:
            assert self.changed.wait_for(look, PATIENCE_SECONDS), f"never: {what}"


@contextmanager
def service_standin() -> Iterator[StandIn]:
    """One on a free port, for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as by the real one

        def do_POST(self) -> None:  # the name is the library's
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            token = self.headers["Authorization"].removeprefix("Bearer ")
            status, answer = standin.answer(self.path, body, token)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True  # a kept connection must not keep the test

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that was killed is what the tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    standin = StandIn(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield standin
    finally:
        server.shutdown()
        server.server_close()
