"""The agent's side of its door: sync and claim, over HTTP."""

from collections.abc import Sequence

import httpx

from workers.contract.inventory import Sync, SyncAnswer
from workers.contract.launch import Claim, LaunchSpec

ANSWER_SECONDS = 10.0  # beyond what the service was asked to wait


class Replaced(Exception):
    """Another agent has this name now; this one has to end."""


class Refused(Exception):
    """The service does not want this; not worth repeating as it is."""


class Away(Exception):
    """The service does not answer; worth repeating."""


class ServiceClient:
    """Speaks with any of the servers; the next one where one is away."""

    def __init__(self, name: str, urls: Sequence[str], token: str) -> None:
        self._name = name
        self._urls = [url.rstrip("/") for url in urls]
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            trust_env=False,  # a proxy for the internet is none for the service
        )
        self._turn = 0

    @property
    def urls(self) -> list[str]:
        """The servers, for gangs too."""
        return list(self._urls)

    def sync(self, sync: Sync) -> SyncAnswer:
        """Tell what is, hear what should be; raises Replaced, Refused or Away."""
        path = f"/v1/agents/{self._name}/sync"
        response = self._post(path, sync.model_dump_json(), sync.wait_seconds + ANSWER_SECONDS)
        if response.status_code == httpx.codes.CONFLICT:
            raise Replaced(_sentence(response))
        return SyncAnswer.model_validate_json(_content(response))

    def claim(self, claim: Claim) -> LaunchSpec:
        """Take an attempt; raises Refused where it is another's, or Away."""
        path = f"/v1/agents/{self._name}/claims"
        response = self._post(path, claim.model_dump_json(), ANSWER_SECONDS)
        return LaunchSpec.model_validate_json(_content(response))

    def _post(self, path: str, content: str, seconds: float) -> httpx.Response:
        url = self._urls[self._turn % len(self._urls)] + path
        try:
            response = self._http.post(url, content=content, timeout=seconds)
        except (httpx.HTTPError, OSError) as error:
            self._turn += 1
            raise Away(f"{url} does not answer: {error}") from error
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            self._turn += 1
            raise Away(f"{url} answers {response.status_code}")
        return response


def _content(response: httpx.Response) -> bytes:
    if response.status_code != httpx.codes.OK:
        raise Refused(_sentence(response))
    return response.content


def _sentence(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.text[:200]}"
