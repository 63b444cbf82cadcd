"""A server that speaks S3, on which chosen requests fail."""

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock, Thread
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUSY, DENIED = "503 Slow Down", "403 Forbidden"
REFUSAL = b"<Error><Code>%s</Code><Message>as the test says</Message></Error>"


class FailingServer:
    """Counts the requests since `arm`, from 1, and answers chosen ones with an error."""

    def __init__(self) -> None:
        self.url = ""  # where it listens
        self.num_requests = 0
        self.num_failures = 0
        self._app = DomainDispatcherApplication(create_backend_app)
        self._fail_on: Container[int] = ()
        self._is_passing = False
        self._lock = Lock()  # requests come in threads of their own

    def arm(self, fail_on: Container[int] = (), is_passing: bool = False) -> None:
        """Fail these requests: for good (403), or until one asks again (503)."""
        with self._lock:
            self.num_requests = self.num_failures = 0
            self._fail_on, self._is_passing = fail_on, is_passing

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request, as WSGI asks for it."""
        with self._lock:
            self.num_requests += 1
            fails = self.num_requests in self._fail_on
            self.num_failures += fails
        if not fails:
            answer: Iterable[bytes] = self._app(environ, start)
            return answer
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start(BUSY if self._is_passing else DENIED, [("Content-Type", "application/xml")])
        return [REFUSAL % (b"SlowDown" if self._is_passing else b"AccessDenied")]


@contextmanager
def failing_server() -> Iterator[FailingServer]:
    """A server on a free port, for as long as the block lasts."""
    app = FailingServer()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    app.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield app
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
