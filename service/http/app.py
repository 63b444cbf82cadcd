"""The HTTP application: routes, limits, health, metrics; everything else is behind it."""

import time
from http import HTTPStatus
from importlib.metadata import version

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.domain.errors import Unreachable
from service.http import machines, people, problems
from service.http.auth import Auth
from service.http.metrics import HttpMetrics, register
from service.http.services import Services
from service.http.waiting import Closing, Waiting

BODY_BYTES_MAX = 4 << 20  # 500 facts with a failure's last lines; a spec is far smaller
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def create_app(services: Services) -> FastAPI:
    """Put the routes together."""
    app = FastAPI(
        title="Strata",
        version=version("strata"),
        description="A distributed training service with a job queue.",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.closing = Closing()
    app.state.asked_at = time.monotonic()  # by people; the local service ends itself when idle
    auth = Auth(services.store)
    waiting = Waiting(services.bus, app.state.closing)
    http_metrics = register(services)
    problems.install(app)
    app.include_router(people.routes(services, auth, waiting))
    app.include_router(machines.routes(services, auth, waiting))
    _add_health(app, services)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(services.registry), media_type=CONTENT_TYPE_LATEST)

    app.add_middleware(Gate, metrics=http_metrics)
    return app


def _add_health(app: FastAPI, services: Services) -> None:
    @app.get("/healthz", tags=["health"])
    def healthz() -> Response:
        """Say whether this process works: its control loop turns."""
        if services.loop.is_alive:
            return JSONResponse({"status": "alive"})
        return JSONResponse({"status": "the control loop does not turn"}, status_code=503)

    @app.get("/readyz", tags=["health"])
    def readyz() -> Response:
        """Say whether requests can be served: the database answers and its schema is ours.

        Redis is not asked for: without it everything works, a poll later. `degraded` says so.
        """
        try:
            state = services.check_schema()
        except Unreachable as refusal:
            return JSONResponse({"status": str(refusal)}, status_code=503)
        status = HTTPStatus.OK if state.is_acceptable else HTTPStatus.SERVICE_UNAVAILABLE
        answer = {"status": state.sentence}
        if services.bus.trouble is not None:
            answer["degraded"] = f"Redis carries no wake-ups: {services.bus.trouble}"
        return JSONResponse(answer, status_code=status)


class Gate:
    """What every request passes: its body is bounded, its answer is counted."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, received = time.perf_counter(), 0
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value  # unless an answer begins

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_BYTES_MAX:  # counted, because a body need not tell its length
                raise HTTPException(413, f"a body has at most {BODY_BYTES_MAX} bytes")
            return message

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, bounded, watched)
        finally:
            self._count(scope, status, time.perf_counter() - began)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # Routes and not paths, known methods and not any word: a label's values are few.
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if route.startswith(people.PATHS) and status != HTTPStatus.UNAUTHORIZED:
            scope["app"].state.asked_at = time.monotonic()
