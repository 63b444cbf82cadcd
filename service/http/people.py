"""The routes for people and their tools."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.control.jobs import KEY_CHARS_MAX
from service.domain.asks import JobFilter
from service.domain.errors import Forbidden, NotFound
from service.domain.job import JobState
from service.domain.records import Job, Role
from service.domain.spec import JobSpec
from service.domain.specfile import check_spec
from service.http.auth import Auth, Identity
from service.http.services import Services
from service.http.shapes import to_json

PAGE_MAX = 500
MEASUREMENTS_MAX = 20_000


class Submit(BaseModel):
    """A job to be stored."""

    model_config = ConfigDict(extra="forbid")

    spec: dict[str, Any]
    key: Annotated[str, Field(min_length=1, max_length=KEY_CHARS_MAX)]


class DryRunAsked(BaseModel):
    """A job to be tried."""

    model_config = ConfigDict(extra="forbid")

    spec: dict[str, Any]


class VerifyAsked(BaseModel):
    """A checkpoint to be verified; None is the current one."""

    model_config = ConfigDict(extra="forbid")

    path: str | None = None


def routes(services: Services, auth: Auth) -> APIRouter:
    """All of them."""
    router = APIRouter(prefix="/v1", tags=["people"])
    _add_writes(router, services, auth)
    _add_reads(router, services, auth)
    _add_course(router, services, auth)
    return router


def _add_writes(router: APIRouter, services: Services, auth: Auth) -> None:
    @router.post("/jobs", status_code=201)
    def submit(request: Request, response: Response, asked: Submit) -> Any:
        """Store a job; the same key and spec give the same job again, with 200."""
        who = auth.person(request, Role.SUBMITTER)
        spec = _own(check_spec(asked.spec), who)
        submitted = services.jobs.submit(spec, key=asked.key, owner=who.actor)
        if not submitted.created:
            response.status_code = 200
        return to_json(submitted)

    @router.post("/jobs/dry-run")
    def dry_run(request: Request, asked: DryRunAsked) -> Any:
        """Say what would happen to the job now."""
        who = auth.person(request, Role.SUBMITTER)
        return to_json(services.jobs.dry_run(_own(check_spec(asked.spec), who)))

    @router.post("/jobs/{ref}/{act}")
    def act(request: Request, ref: str, act: Literal["cancel", "hold", "release"]) -> Any:
        """Cancel, hold or release a job."""
        who = auth.person(request, Role.SUBMITTER)
        job = _visible(services, ref, who)
        return to_json(getattr(services.jobs, act)(job.id, actor=who.actor))


def _add_reads(router: APIRouter, services: Services, auth: Auth) -> None:
    @router.get("/jobs")
    def jobs(
        request: Request,
        state: Annotated[list[JobState] | None, Query()] = None,
        queue: str | None = None,
        name: str | None = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
        before: int | None = None,
    ) -> Any:
        """List jobs, newest first; `before` is the last page's last `seq`."""
        who = auth.person(request, Role.VIEWER)
        wanted = JobFilter(
            states=frozenset(state) if state else None,
            queue=queue,
            project=who.project,
            name=name,
            before_seq=before,
            limit=limit,
        )
        return {"jobs": to_json(services.jobs.list(wanted))}

    @router.get("/jobs/{ref}")
    def status(request: Request, ref: str) -> Any:
        """Show a job with all that is known of its course."""
        job = _visible(services, ref, auth.person(request, Role.VIEWER))
        return to_json(services.jobs.status(job.id))

    @router.get("/nodes")
    def nodes(request: Request) -> Any:
        """List agents and their nodes."""
        auth.person(request, Role.VIEWER)
        nodes = [{"agent": agent, **to_json(node)} for agent, node in services.store.nodes()]
        return {"agents": to_json(services.store.agents()), "nodes": nodes}


def _add_course(router: APIRouter, services: Services, auth: Auth) -> None:
    def seen(request: Request, ref: str) -> Job:
        return _visible(services, ref, auth.person(request, Role.VIEWER))

    @router.get("/jobs/{ref}/events")
    def events(
        request: Request,
        ref: str,
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_MAX,
    ) -> Any:
        """List a job's events in order, after the one with this id."""
        job = seen(request, ref)
        return {"events": to_json(services.jobs.events(job.id, after_id=after, limit=limit))}

    @router.get("/jobs/{ref}/metrics")
    def metrics(
        request: Request,
        ref: str,
        limit: Annotated[int, Query(ge=1, le=MEASUREMENTS_MAX)] = 1000,
    ) -> Any:
        """Show a job's curves, the newest `limit` lines."""
        job = seen(request, ref)
        return {"measurements": to_json(services.jobs.measurements(job.id, limit=limit))}

    @router.get("/jobs/{ref}/checkpoints")
    def checkpoints(request: Request, ref: str) -> Any:
        """List a job's checkpoints, newest first."""
        return {"checkpoints": to_json(services.jobs.checkpoints(seen(request, ref).id))}

    @router.post("/jobs/{ref}/checkpoints/verify")
    def verify(request: Request, ref: str, asked: VerifyAsked) -> Any:
        """Compare a checkpoint's bytes with what was recorded."""
        return {"verified": to_json(services.files.verify(seen(request, ref), asked.path))}

    @router.get("/jobs/{ref}/logs")
    def logs(
        request: Request,
        ref: str,
        attempt: int | None = None,
        who: str = "rank-0",
        cursor: str = "",
    ) -> Any:
        """Read what comes after the cursor of one process's log."""
        job = seen(request, ref)
        return to_json(services.files.logs(job, attempt=attempt, who=who, cursor=cursor))


def _visible(services: Services, ref: str, who: Identity) -> Job:
    """The job, if its project is the person's; another's is as if it were not there."""
    job = services.jobs.find(ref)
    if who.project is not None and job.spec.project != who.project:
        raise NotFound(f"there is no job {ref!r} in project {who.project}")
    return job


def _own(spec: JobSpec, who: Identity) -> JobSpec:
    if who.project is not None and spec.project != who.project:
        raise Forbidden(
            f"{who.name} submits to project {who.project} only", place="project", remedy="mend it"
        )
    return spec
