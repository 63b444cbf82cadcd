"""The routes for agents and gangs."""

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from service.http.auth import BEARER, Auth
from service.http.services import Services
from service.http.waiting import Waiting
from workers.contract.inventory import Sync, SyncAnswer
from workers.contract.launch import Claim, LaunchSpec
from workers.contract.reports import Report, ReportAnswer


def routes(services: Services, auth: Auth, waiting: Waiting) -> APIRouter:
    """All of them."""
    router = APIRouter(prefix="/v1", tags=["machines"], dependencies=[Depends(BEARER)])

    @router.post("/agents/{name}/sync")
    async def sync(request: Request, name: str, told: Sync) -> SyncAnswer:
        """Take what an agent sees; answer with what should be so, once it is news."""
        await run_in_threadpool(auth.agent, request, name)
        untold = told

        def look() -> SyncAnswer:
            nonlocal untold
            answer = services.fleet.sync(name, untold)
            # What was told is taken; what follows is only a question.
            untold = told.model_copy(update={"gangs": (), "pruned": ()})
            return answer

        def is_news(answer: SyncAnswer) -> bool:
            return answer.fingerprint != told.known

        return await waiting.for_news(f"agent/{name}", told.wait_seconds, look, is_news)

    @router.post("/agents/{name}/claims")
    def claim(request: Request, name: str, asked: Claim) -> LaunchSpec:
        """Give a reserved attempt to an agent, once."""
        auth.agent(request, name)
        return services.fleet.claim(name, asked)

    @router.post("/attempts/{job_id}/{number}/reports")
    def report(request: Request, job_id: str, number: int, told: Report) -> ReportAnswer:
        """Take a gang's facts; 410 once its attempt is over."""
        attempt = auth.gang(request, job_id, number)
        return services.ingest.report(attempt, told)

    return router
