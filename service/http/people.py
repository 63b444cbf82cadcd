"""The routes for people and their tools; the answers are the records themselves."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from service.control.diagnosis import Diagnosis
from service.control.jobs import KEY_CHARS_MAX
from service.control.views import DryRun, JobStatus, LogPart, Submitted, Verified
from service.domain.asks import JobFilter
from service.domain.errors import BadInput, Forbidden
from service.domain.job import JobState
from service.domain.records import Agent, Checkpoint, Event, Job, Measurement, Role
from service.domain.spec import JobSpec
from service.domain.specfile import SPEC_DEPTH_MAX, check_spec
from service.http.auth import BEARER, Auth, Identity
from service.http.services import Services
from service.http.waiting import LONG_POLL_SECONDS_MAX, Waiting
from workers.contract.code import pack_name
from workers.contract.inventory import NodeSeen
from workers.contract.reports import PROFILE_STEPS, PROFILE_STEPS_MAX

PATHS = ("/v1/jobs", "/v1/nodes")  # what people ask, and machines do not
PAGE_MAX = 500
MEASUREMENTS_MAX = 20_000
ROW_MAX = 2**63 - 1  # what the databases can count to
ATTEMPT_MAX = 2**31 - 1

RowNumber = Annotated[int, Query(ge=0, le=ROW_MAX)]


class Submit(BaseModel):
    """A job to be stored."""

    model_config = ConfigDict(extra="forbid")

    spec: dict[str, Any]
    key: Annotated[str, Field(min_length=1, max_length=KEY_CHARS_MAX)]


class DryRunAsked(BaseModel):
    """A job to be tried."""

    model_config = ConfigDict(extra="forbid")

    spec: dict[str, Any]


class PinAsked(BaseModel):
    """A checkpoint to be kept, or no more; None is the current one."""

    model_config = ConfigDict(extra="forbid")

    path: str | None = None
    pinned: bool = True


class ProfileAsked(BaseModel):
    """A trace of the next steps."""

    model_config = ConfigDict(extra="forbid")

    steps: Annotated[int, Field(ge=1, le=PROFILE_STEPS_MAX)] = PROFILE_STEPS


class VerifyAsked(BaseModel):
    """A checkpoint to be verified; None is the current one."""

    model_config = ConfigDict(extra="forbid")

    path: str | None = None


class KeptCode(BaseModel):
    """What a job writes under `code` to run with it."""

    code: str


class JobsPage(BaseModel):
    """Jobs, newest first."""

    jobs: list[Job]


class AgentNode(NodeSeen):
    """A node, and whose."""

    agent: str


class FleetPage(BaseModel):
    """Agents and their nodes."""

    agents: list[Agent]
    nodes: list[AgentNode]


class EventsPage(BaseModel):
    """Events in order."""

    events: list[Event]


class CurvesPage(BaseModel):
    """A job's curves in order."""

    measurements: list[Measurement]


class CheckpointsPage(BaseModel):
    """Checkpoints, newest first."""

    checkpoints: list[Checkpoint]


class VerifiedPage(BaseModel):
    """Checkpoints after their bytes were compared."""

    verified: list[Verified]


def routes(services: Services, auth: Auth, waiting: Waiting) -> APIRouter:
    """All of them."""
    router = APIRouter(prefix="/v1", tags=["people"], dependencies=[Depends(BEARER)])
    _add_writes(router, services, auth)
    _add_reads(router, services, auth)
    _add_events(router, services, auth, waiting)
    _add_course(router, services, auth)
    return router


def _add_writes(router: APIRouter, services: Services, auth: Auth) -> None:
    @router.post("/jobs", status_code=201)
    def submit(request: Request, response: Response, asked: Submit) -> Submitted:
        """Store a job; the same key and spec give the same job again, with 200."""
        who = auth.person(request, Role.SUBMITTER)
        _refuse_untold(asked.key, "key")
        spec = _spec(asked.spec, who)
        submitted = services.jobs.submit(spec, key=asked.key, owner=who.actor)
        if not submitted.created:
            response.status_code = 200
        return submitted

    @router.put("/code/{sha256}", status_code=201)
    async def keep_code(
        request: Request, sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
    ) -> KeptCode:
        """Keep a user's packed code, named by its hash; jobs name it under `code`."""
        await run_in_threadpool(auth.person, request, Role.SUBMITTER)
        await run_in_threadpool(services.jobs.keep_code, sha256, await request.body())
        return KeptCode(code=pack_name(sha256))

    @router.post("/jobs/dry-run")
    def dry_run(request: Request, asked: DryRunAsked) -> DryRun:
        """Say what would happen to the job now."""
        who = auth.person(request, Role.SUBMITTER)
        return services.jobs.dry_run(_spec(asked.spec, who))

    @router.post("/jobs/{ref}/checkpoints/pin")
    def pin(request: Request, ref: str, asked: PinAsked) -> Checkpoint:
        """Keep a checkpoint whatever comes after it, or no more."""
        who = auth.person(request, Role.SUBMITTER)
        job = _visible(services, ref, who)
        return services.jobs.pin(job.id, asked.path, pinned=asked.pinned, actor=who.actor)

    @router.post("/jobs/{ref}/profile", status_code=202)
    def profile(request: Request, ref: str, asked: ProfileAsked) -> Job:
        """Have the next steps of a job that runs traced; an event tells where the trace is."""
        who = auth.person(request, Role.SUBMITTER)
        job = _visible(services, ref, who)
        return services.jobs.profile(job.id, asked.steps, actor=who.actor)

    @router.post("/jobs/{ref}/{act}")
    def act(request: Request, ref: str, act: Literal["cancel", "hold", "release"]) -> Job:
        """Cancel, hold or release a job."""
        who = auth.person(request, Role.SUBMITTER)
        job = _visible(services, ref, who)
        acts = {
            "cancel": services.jobs.cancel,
            "hold": services.jobs.hold,
            "release": services.jobs.release,
        }
        return acts[act](job.id, actor=who.actor)


def _add_reads(router: APIRouter, services: Services, auth: Auth) -> None:
    @router.get("/jobs")
    def jobs(
        request: Request,
        state: Annotated[list[JobState] | None, Query()] = None,
        queue: str | None = None,
        name: str | None = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
        before: RowNumber | None = None,
    ) -> JobsPage:
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
        return JobsPage(jobs=services.jobs.list(wanted))

    @router.get("/jobs/{ref}")
    def status(request: Request, ref: str) -> JobStatus:
        """Show a job with all that is known of its course."""
        job = _visible(services, ref, auth.person(request, Role.VIEWER))
        return services.jobs.status(job.id)

    @router.get("/nodes")
    def nodes(request: Request) -> FleetPage:
        """List agents and their nodes."""
        auth.person(request, Role.VIEWER)
        nodes = [
            AgentNode(agent=agent, **node.model_dump()) for agent, node in services.store.nodes()
        ]
        return FleetPage(agents=services.store.agents(), nodes=nodes)


def _add_events(router: APIRouter, services: Services, auth: Auth, waiting: Waiting) -> None:
    @router.get("/jobs/{ref}/events")
    async def events(
        request: Request,
        ref: str,
        after: RowNumber = 0,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_MAX,
        wait_seconds: Annotated[float, Query(ge=0, le=LONG_POLL_SECONDS_MAX)] = 0.0,
    ) -> EventsPage:
        """List a job's events after the one with this id; wait for one where there is none."""
        who = await run_in_threadpool(auth.person, request, Role.VIEWER)
        job = await run_in_threadpool(_visible, services, ref, who)

        def look() -> list[Event]:
            return services.jobs.events(job.id, after_id=after, limit=limit)

        return EventsPage(events=await waiting.for_news(f"job/{job.id}", wait_seconds, look, bool))


def _add_course(router: APIRouter, services: Services, auth: Auth) -> None:
    def seen(request: Request, ref: str) -> Job:
        return _visible(services, ref, auth.person(request, Role.VIEWER))

    @router.get("/jobs/{ref}/metrics")
    def metrics(
        request: Request,
        ref: str,
        limit: Annotated[int, Query(ge=1, le=MEASUREMENTS_MAX)] = 1000,
        before: RowNumber | None = None,
    ) -> CurvesPage:
        """Show a job's curves, the newest `limit` lines, or of those before the one with this id.

        The lines are in order.
        """
        job = seen(request, ref)
        lines = services.jobs.measurements(job.id, limit=limit, before_id=before)
        return CurvesPage(measurements=lines)

    @router.get("/jobs/{ref}/diagnosis")
    def diagnosis(request: Request, ref: str) -> Diagnosis:
        """Say why a job does not learn, or not fast."""
        return services.jobs.diagnose(seen(request, ref).id)

    @router.get("/jobs/{ref}/checkpoints")
    def checkpoints(request: Request, ref: str) -> CheckpointsPage:
        """List a job's checkpoints, newest first; of those that are gone only the newest."""
        return CheckpointsPage(checkpoints=services.jobs.checkpoints(seen(request, ref).id))

    @router.post("/jobs/{ref}/checkpoints/verify")
    def verify(request: Request, ref: str, asked: VerifyAsked) -> VerifiedPage:
        """Compare a checkpoint's bytes with what was recorded."""
        return VerifiedPage(verified=services.files.verify(seen(request, ref), asked.path))

    @router.get("/jobs/{ref}/logs")
    def logs(
        request: Request,
        ref: str,
        attempt: Annotated[int | None, Query(ge=1, le=ATTEMPT_MAX)] = None,
        who: str = "rank-0",
        cursor: str = "",
    ) -> LogPart:
        """Read what comes after the cursor of one process's log."""
        job = seen(request, ref)
        return services.files.logs(job, attempt=attempt, who=who, cursor=cursor)


def _visible(services: Services, ref: str, who: Identity) -> Job:
    """The job, if its project is the person's; another's is as if it were not there."""
    return services.jobs.find(ref, project=who.project)


def _spec(value: dict[str, Any], who: Identity) -> JobSpec:
    """The spec, if it may be this person's."""
    _refuse_untold(value, "spec")
    spec = check_spec(value)
    if who.project is not None and spec.project != who.project:
        raise Forbidden(
            f"{who.name} submits to project {who.project} only", place="project", remedy="mend it"
        )
    return spec


def _refuse_untold(value: object, place: str, depth: int = 0) -> None:
    """Refuse text that JSON can write but no database can hold, and nesting without end.

    A job that was stored with such text could never be shown again, nor a list with it.
    """
    if depth > SPEC_DEPTH_MAX:
        raise BadInput(f"nests deeper than {SPEC_DEPTH_MAX} levels", place=place)
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise BadInput(f"{value!a} is no text", place=place, remedy="write it in UTF-8")
    elif isinstance(value, dict):
        for key, one in value.items():
            _refuse_untold(key, place, depth)
            _refuse_untold(one, f"{place}.{key}", depth + 1)
    elif isinstance(value, list):
        for one in value:
            _refuse_untold(one, place, depth + 1)
