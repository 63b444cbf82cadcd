"""The service as a gang sees it: a real little HTTP server that can be away, order and refuse."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StandIn:
    """Keeps what it is told; tests set what it answers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.changed = threading.Condition()
        self.is_away = False
        self.is_closed = False
        self.stop: dict[str, Any] | None = None
        self.facts: list[dict[str, Any]] = []
        self.requests = 0
        self.refused = 0

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.changed:
            self.requests += 1
            try:
                if self.is_away:
                    self.refused += 1
                    return 503, {"detail": "away"}
                if self.is_closed:
                    return 410, {"detail": "closed"}
                held = self.facts[-1]["seq"] if self.facts else 0
                self.facts += [fact for fact in body["facts"] if fact["seq"] > held]
                held = self.facts[-1]["seq"] if self.facts else 0
                return 200, {"held": held, "stop": self.stop}
            finally:
                self.changed.notify_all()

    def wait(self, look: Any, what: str) -> None:
        with self.changed:
            assert self.changed.wait_for(look, 20.0), f"never: {what}"


@contextmanager
def service_standin() -> Iterator[StandIn]:
    """One on a free port, for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name is the library's
            length = int(self.headers["Content-Length"])
            status, answer = standin.answer(self.path, json.loads(self.rfile.read(length)))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    standin = StandIn(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield standin
    finally:
        server.shutdown()
        server.server_close()
