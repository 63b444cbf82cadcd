"""The routes for agents and gangs."""

import asyncio

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from service.http.auth import BEARER, Auth
from service.http.services import Services
from workers.contract.inventory import Sync, SyncAnswer
from workers.contract.launch import Claim, LaunchSpec
from workers.contract.reports import Report, ReportAnswer

LONG_POLL_SECONDS_MAX = 20.0  # below the idle limit of any balancer on the way


class Closing:
    """Ends every waiting answer when the server stops."""

    def __init__(self) -> None:
        self.is_closing = False
        self.waiting: set[asyncio.Event] = set()

    def close(self) -> None:
        """Let all of them answer now; called on the event loop."""
        self.is_closing = True
        for event in self.waiting:
            event.set()


def routes(services: Services, auth: Auth, closing: Closing) -> APIRouter:
    """All of them."""
    router = APIRouter(prefix="/v1", tags=["machines"], dependencies=[Depends(BEARER)])

    @router.post("/agents/{name}/sync")
    async def sync(request: Request, name: str, told: Sync) -> SyncAnswer:
        """Take what an agent sees; answer with what should be so, once it is news."""
        await run_in_threadpool(auth.agent, request, name)
        woken = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(woken.set)

        leave = services.bus.listen(f"agent/{name}", wake)
        closing.waiting.add(woken)
        try:
            return await _news(services, name, told, woken, closing)
        finally:
            leave()
            closing.waiting.discard(woken)

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


async def _news(
    services: Services, name: str, told: Sync, woken: asyncio.Event, closing: Closing
) -> SyncAnswer:
    """Ask again at each wake-up until the answer differs from what the agent knows."""
    loop = asyncio.get_running_loop()
    # In this order, for min(20, nan) is 20.
    deadline = loop.time() + min(LONG_POLL_SECONDS_MAX, told.wait_seconds)
    while True:
        woken.clear()  # before we look: a wake-up while we look asks for another look
        answer = await run_in_threadpool(services.fleet.sync, name, told)
        left = deadline - loop.time()
        if answer.fingerprint != told.known or left <= 0 or closing.is_closing:
            return answer
        # What was told is taken; what follows is only a question.
        told = told.model_copy(update={"gangs": (), "pruned": ()})
        try:
            await asyncio.wait_for(woken.wait(), left)
        except TimeoutError:
            return answer
