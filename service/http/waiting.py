"""Long-polls: an answer waits until it is news, or until its time is over."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from service.control.ports import Bus

LONG_POLL_SECONDS_MAX = 20.0  # below the idle limit of any balancer on the way

Answer = TypeVar("Answer")


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


class Waiting:
    """Who waits for what, in this server."""

    def __init__(self, bus: Bus, closing: Closing) -> None:
        self._bus = bus
        self._closing = closing

    async def for_news(
        self,
        topic: str,
        seconds: float,
        look: Callable[[], Answer],
        is_news: Callable[[Answer], bool],
    ) -> Answer:
        """Look at each wake-up of the topic until it is news; after `seconds` answer as it is.

        Where wake-ups may be lost, look at each poll too. `look` runs on a thread of its own.
        """
        woken = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(woken.set)

        leave = self._bus.listen(topic, wake)
        self._closing.waiting.add(woken)
        # In this order, for min(20, nan) is 20.
        deadline = loop.time() + min(LONG_POLL_SECONDS_MAX, seconds)
        try:
            while True:
                woken.clear()  # before we look: a wake-up while we look asks for another look
                answer = await run_in_threadpool(look)
                left = deadline - loop.time()
                if is_news(answer) or left <= 0 or self._closing.is_closing:
                    return answer
                with suppress(TimeoutError):  # a wake-up may have been lost
                    await asyncio.wait_for(woken.wait(), min(left, self._bus.poll_seconds))
        finally:
            leave()
            self._closing.waiting.discard(woken)
