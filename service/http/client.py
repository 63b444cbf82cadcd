"""The command line's way to a server: answers as plain JSON, refusals as the server said them.

Built on the standard library, because a command should be done before a larger client is imported.
"""

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from service.domain import errors
from service.domain.errors import Refusal, Unreachable

ANSWER_SECONDS = 30.0
_REFUSALS: dict[str, type[Refusal]] = {
    kind.code: kind
    for kind in (
        errors.BadInput,
        errors.NotFound,
        errors.Conflict,
        errors.Forbidden,
        errors.Closed,
        errors.Unreachable,
    )
}


class Client:
    """Speaks with one server."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._token = token

    def get(self, path: str, **query: Any) -> Any:
        """Ask; None in the query is left out, a list is repeated."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", path + (f"?{urlencode(given, doseq=True)}" if given else ""))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Tell."""
        return self._call("POST", path, json.dumps(body or {}).encode())

    def put(self, path: str, content: bytes) -> None:
        """Bring a file."""
        self._call("PUT", path, content)

    def job(self, ref: str) -> str:
        """The path of a job."""
        return f"/v1/jobs/{quote(ref, safe='@')}"

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        parts = urlsplit(self._url)
        connection = self._connection(parts.scheme, parts.netloc)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(method, parts.path + path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"the server at {self._url} does not answer: {error}",
                remedy="is it running, and is STRATA_URL right?",
            ) from error
        finally:
            connection.close()
        return self._read(response.status, content)

    def _connection(self, scheme: str, place: str) -> http.client.HTTPConnection:
        if scheme == "https":
            return http.client.HTTPSConnection(
                place, timeout=ANSWER_SECONDS, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(place, timeout=ANSWER_SECONDS)

    def _read(self, status: int, content: bytes) -> Any:
        try:
            value = json.loads(content)
        except ValueError:
            value = None
        if not isinstance(value, dict):  # every answer of ours is one; a proxy's need not be
            raise Unreachable(
                f"{self._url} answers {status}, and not as Strata does",
                remedy="is STRATA_URL right?",
            )
        if status < http.client.BAD_REQUEST:
            return value
        kind = _REFUSALS.get(value.get("code", ""), Unreachable)
        raise kind(
            value.get("sentence") or str(value.get("detail", f"status {status}")),
            place=value.get("place", ""),
            remedy=value.get("remedy", ""),
        )
