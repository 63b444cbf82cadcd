"""How a command reaches the jobs: through a server, or, to read, straight from the database.

All answers are plain JSON values in the shapes of the HTTP API.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from service.domain.errors import NotFound, Unreachable
from service.settings import Settings

if TYPE_CHECKING:  # each way imports what it needs, and no more
    from service.control.files import Files
    from service.control.jobs import Jobs
    from service.http.client import Client


SQLITE = "sqlite:///"
CURVE_LINES = 5000  # of one job: twenty minutes of them, in about 2 MB


class Door(Protocol):
    """What can be read through either way."""

    def jobs(self, **filters: Any) -> list[dict[str, Any]]:
        """List jobs, newest first."""

    def status(self, ref: str) -> dict[str, Any]:
        """Show all that is known of a job."""

    def events(self, ref: str, after: int) -> list[dict[str, Any]]:
        """List a job's events after the one with this id."""

    def curves(self, ref: str, before: int | None = None) -> list[dict[str, Any]]:
        """List a job's measurements in order, the newest CURVE_LINES, or of those before an id."""

    def diagnosis(self, ref: str) -> dict[str, Any]:
        """Say why a job does not learn."""

    def checkpoints(self, ref: str) -> list[dict[str, Any]]:
        """List a job's checkpoints, newest first."""

    def verify(self, ref: str, path: str | None) -> list[dict[str, Any]]:
        """Compare a checkpoint's bytes with what was recorded."""

    def logs(self, ref: str, attempt: int | None, who: str, cursor: str) -> dict[str, Any]:
        """Read what comes after the cursor of a log."""


class ServerDoor:
    """Through a server."""

    def __init__(self, client: "Client") -> None:
        self.client = client

    def jobs(self, **filters: Any) -> list[dict[str, Any]]:
        """List jobs, newest first."""
        found: list[dict[str, Any]] = self.client.get("/v1/jobs", **filters)["jobs"]
        return found

    def status(self, ref: str) -> dict[str, Any]:
        """Show all that is known of a job."""
        found: dict[str, Any] = self.client.get(self.client.job(ref))
        return found

    def events(self, ref: str, after: int, wait_seconds: float = 0.0) -> list[dict[str, Any]]:
        """List a job's events after the one with this id; wait for one where there is none."""
        path = f"{self.client.job(ref)}/events"
        answer = self.client.get(path, after=after, wait_seconds=wait_seconds)
        found: list[dict[str, Any]] = answer["events"]
        return found

    def curves(self, ref: str, before: int | None = None) -> list[dict[str, Any]]:
        """List a job's measurements in order, the newest CURVE_LINES, or of those before an id."""
        path = f"{self.client.job(ref)}/metrics"
        answer = self.client.get(path, limit=CURVE_LINES, before=before)
        found: list[dict[str, Any]] = answer["measurements"]
        return found

    def diagnosis(self, ref: str) -> dict[str, Any]:
        """Say why a job does not learn."""
        found: dict[str, Any] = self.client.get(f"{self.client.job(ref)}/diagnosis")
        return found

    def checkpoints(self, ref: str) -> list[dict[str, Any]]:
        """List a job's checkpoints, newest first."""
        path = f"{self.client.job(ref)}/checkpoints"
        found: list[dict[str, Any]] = self.client.get(path)["checkpoints"]
        return found

    def verify(self, ref: str, path: str | None) -> list[dict[str, Any]]:
        """Compare a checkpoint's bytes with what was recorded."""
        answer = self.client.post(f"{self.client.job(ref)}/checkpoints/verify", {"path": path})
        found: list[dict[str, Any]] = answer["verified"]
        return found

    def logs(self, ref: str, attempt: int | None, who: str, cursor: str) -> dict[str, Any]:
        """Read what comes after the cursor of a log."""
        path = f"{self.client.job(ref)}/logs"
        found: dict[str, Any] = self.client.get(path, attempt=attempt, who=who, cursor=cursor)
        return found


class DatabaseDoor:
    """Straight from the embedded database, while no server runs: through the same services."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _services(self) -> "tuple[Jobs, Files]":
        from service.bootstrap import open_jobs

        return open_jobs(self._settings)

    @property
    def _jobs(self) -> "Jobs":
        return self._services[0]

    @property
    def _files(self) -> "Files":
        return self._services[1]

    def jobs(self, **filters: Any) -> list[dict[str, Any]]:
        """List jobs, newest first."""
        states, limit = filters.get("state") or (), filters.get("limit") or 50
        queue, name, before = (filters.get(key) for key in ("queue", "name", "before"))
        if self._settings.database_url.startswith(SQLITE):
            from service.store.listing import listed_jobs

            file = Path(self._settings.database_url.removeprefix(SQLITE))
            return listed_jobs(
                file, states=states, queue=queue, name=name, before=before, limit=limit
            )
        from service.domain.asks import JobFilter
        from service.domain.job import JobState

        wanted = JobFilter(
            frozenset(map(JobState, states)) or None, queue, None, name, before, limit
        )
        found: list[dict[str, Any]] = _json(self._jobs.list(wanted))
        return found

    def status(self, ref: str) -> dict[str, Any]:
        """Show all that is known of a job."""
        found: dict[str, Any] = _json(self._jobs.status(ref))
        return found

    def events(self, ref: str, after: int) -> list[dict[str, Any]]:
        """List a job's events after the one with this id."""
        found: list[dict[str, Any]] = _json(self._jobs.events(ref, after_id=after))
        return found

    def curves(self, ref: str, before: int | None = None) -> list[dict[str, Any]]:
        """List a job's measurements in order, the newest CURVE_LINES, or of those before an id."""
        lines = self._jobs.measurements(ref, limit=CURVE_LINES, before_id=before)
        found: list[dict[str, Any]] = _json(lines)
        return found

    def diagnosis(self, ref: str) -> dict[str, Any]:
        """Say why a job does not learn."""
        found: dict[str, Any] = _json(self._jobs.diagnose(ref))
        return found

    def checkpoints(self, ref: str) -> list[dict[str, Any]]:
        """List a job's checkpoints, newest first."""
        found: list[dict[str, Any]] = _json(self._jobs.checkpoints(ref))
        return found

    def verify(self, ref: str, path: str | None) -> list[dict[str, Any]]:
        """Compare a checkpoint's bytes with what was recorded."""
        found: list[dict[str, Any]] = _json(self._files.verify(self._jobs.find(ref), path))
        return found

    def logs(self, ref: str, attempt: int | None, who: str, cursor: str) -> dict[str, Any]:
        """Read what comes after the cursor of a log."""
        job = self._jobs.find(ref)
        found: dict[str, Any] = _json(
            self._files.logs(job, attempt=attempt, who=who, cursor=cursor)
        )
        return found


def _json(value: Any) -> Any:
    from service.http.shapes import to_json

    return to_json(value)


def open_door(settings: Settings) -> Door:
    """The server's door where one answers, else the embedded database's; starts nothing.

    Raises:
        NotFound: there is neither.
    """
    client = find_client(settings)
    if client is not None:
        return ServerDoor(client)
    database = settings.database_url.removeprefix(SQLITE)
    if settings.database_url.startswith(SQLITE) and not Path(database).exists():
        raise NotFound(
            f"there is no job in {settings.home} yet", remedy="submit one: strata submit FILE"
        )
    return DatabaseDoor(settings)


def server_door(settings: Settings) -> ServerDoor:
    """The door of a server that runs; raises Unreachable where there is none."""
    client = find_client(settings)
    if client is None:
        raise Unreachable(
            f"no server runs for {settings.home}",
            remedy="start one with `strata up`, or set STRATA_URL",
        )
    return ServerDoor(client)


def find_client(settings: Settings) -> "Client | None":
    """A client of STRATA_URL, or of the state folder's server if that runs."""
    if settings.url is not None:
        from service.http.client import Client

        if settings.token is None:
            raise Unreachable("no token for STRATA_URL", remedy="set STRATA_TOKEN")
        return Client(settings.url, settings.token)
    from service.cli.processes import living

    server = living(settings.home, "server")
    if server is None:
        return None
    from service.http.client import Client

    token = (settings.home / "token").read_text().strip()
    return Client(server["url"], token)
