"""One shape for every refusal: the same sentence that the command line prints."""

import json
import logging
import secrets
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from service.domain.errors import (
    BadInput,
    Closed,
    Conflict,
    Forbidden,
    NotFound,
    Refusal,
    Stale,
    Unreachable,
)

STATUS: dict[type[Refusal], int] = {
    BadInput: 422,
    NotFound: 404,
    Conflict: 409,
    Forbidden: 403,
    Closed: 410,
    Unreachable: 503,
}

log = logging.getLogger(__name__)


class Unauthorized(Forbidden):
    """No token, or none that we know."""


def install(app: FastAPI) -> None:
    """Answer everything that goes wrong in this shape (RFC 9457)."""

    @app.exception_handler(Refusal)
    def _refused(_request: Request, error: Refusal) -> Response:
        return problem(error)

    @app.exception_handler(RequestValidationError)
    def _invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return problem(BadInput(first["msg"], place=place))

    @app.exception_handler(HTTPException)
    def _no_route(_request: Request, error: HTTPException) -> Response:
        is_missing = error.status_code == HTTPStatus.NOT_FOUND
        refusal = NotFound("there is no such page") if is_missing else BadInput(str(error.detail))
        return problem(refusal, error.status_code)

    @app.exception_handler(Stale)
    def _stale(_request: Request, error: Stale) -> Response:
        return problem(Unreachable(str(error), remedy="try again"))

    @app.exception_handler(Exception)
    def _unexpected(request: Request, error: Exception) -> Response:
        number = secrets.token_hex(4)
        log.error("error %s in %s %s", number, request.method, request.url.path, exc_info=error)
        return problem(Unreachable(f"the server failed; its log says why under {number}"), 500)


def problem(refusal: Refusal, status: int | None = None) -> Response:
    """The refusal as problem details."""
    if status is None:
        is_unknown = isinstance(refusal, Unauthorized)
        status = HTTPStatus.UNAUTHORIZED.value if is_unknown else STATUS[type(refusal)]
    content = {
        "title": refusal.code,
        "status": status,
        "detail": str(refusal),
        "code": refusal.code,
        "sentence": refusal.sentence,
        "place": refusal.place,
        "remedy": refusal.remedy,
        "exit_code": refusal.exit_code,
    }
    return Response(
        json.dumps(content),  # in ASCII: it may quote text that is no UTF-8
        status_code=status,
        headers={"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None,
        media_type="application/problem+json",
    )
