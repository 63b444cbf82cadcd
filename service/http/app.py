"""The HTTP application: routes, limits, health, metrics; everything else is behind it."""

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.domain.errors import BadInput, Unreachable
from service.http import machines, people, problems
from service.http.auth import Auth
from service.http.machines import Closing
from service.http.metrics import HttpMetrics, make_registry
from service.http.services import Services

BODY_BYTES_MAX = 4 << 20  # 500 facts with a failure's last lines; a spec is far smaller

Next = Callable[[Request], Awaitable[Response]]


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
    registry, http_metrics = make_registry(services)
    problems.install(app)
    app.include_router(people.routes(services, auth))
    app.include_router(machines.routes(services, auth, app.state.closing))
    _add_health(app, services)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    _add_middleware(app, http_metrics)
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
        """Say whether requests can be served: the database answers and its schema is ours."""
        try:
            state = services.check_schema()
        except Unreachable as refusal:
            return JSONResponse({"status": str(refusal)}, status_code=503)
        status = HTTPStatus.OK if state.is_acceptable else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": state.sentence}, status_code=status)


def _add_middleware(app: FastAPI, metrics: HttpMetrics) -> None:
    @app.middleware("http")
    async def measured(request: Request, call_next: Next) -> Response:
        if int(request.headers.get("content-length") or 0) > BODY_BYTES_MAX:
            return problems.problem(BadInput(f"a body has at most {BODY_BYTES_MAX} bytes"), 413)
        began = time.perf_counter()
        response = await call_next(request)
        route = getattr(request.scope.get("route"), "path", "none")  # not the path: few labels
        metrics.requests.labels(request.method, route, str(response.status_code)).inc()
        metrics.seconds.labels(route).observe(time.perf_counter() - began)
        if route.startswith("/v1/jobs"):
            request.app.state.asked_at = time.monotonic()
        return response
