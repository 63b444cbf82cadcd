"""Brings facts to the service in order, and its orders back; survives any absence of it."""

import logging
import random
import threading
import time
from collections.abc import Sequence

import httpx
from pydantic import ValidationError

from workers.contract.launch import LaunchSpec
from workers.contract.reports import (
    FACTS_PER_REPORT_MAX,
    Fact,
    ProfileOrder,
    Progress,
    Report,
    ReportAnswer,
    StopOrder,
)

PROGRESS_MAX = 5000  # lines of a curve that wait for a service that is away; the oldest go
BACKOFF_SECONDS = 0.2  # the first pause after a failed report; it doubles, with jitter
BACKOFF_SECONDS_MAX = 5.0
ANSWER_SECONDS = 10.0

log = logging.getLogger(__name__)


class Reporter:
    """Sends from a thread of its own; a report without facts is a heartbeat."""

    def __init__(self, launch: LaunchSpec, urls: Sequence[str], token: str) -> None:
        self._heartbeat_seconds = launch.deadlines.heartbeat_seconds
        path = f"/v1/attempts/{launch.job_id}/{launch.attempt}/reports"
        self._urls = [url.rstrip("/") + path for url in urls]
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            timeout=ANSWER_SECONDS,
            trust_env=False,  # a proxy for the internet is none for the service
        )
        self._changed = threading.Condition()
        self._waiting: list[Fact] = []
        self._held = 0
        self._stop_order: StopOrder | None = None
        self._profile_order: ProfileOrder | None = None
        self._is_closed = False
        self._heard_at = time.monotonic()
        self.rank_steps: tuple[int, ...] = ()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()

    @property
    def stop_order(self) -> StopOrder | None:
        """What the service ordered, once it did."""
        return self._stop_order

    @property
    def profile_order(self) -> ProfileOrder | None:
        """The newest order to trace steps."""
        return self._profile_order

    @property
    def is_closed(self) -> bool:
        """True once the service refused us for good: this gang is stale."""
        return self._is_closed

    @property
    def silence_seconds(self) -> float:
        """How long the service has not answered."""
        return time.monotonic() - self._heard_at

    def submit(self, fact: Fact) -> None:
        """Let a fact go as soon as it can; the oldest progress gives way where too much waits."""
        with self._changed:
            self._waiting.append(fact)
            if len(self._waiting) > PROGRESS_MAX:
                self._drop_oldest_progress()
            self._changed.notify_all()

    def wait_held(self, seq: int, seconds: float) -> bool:
        """Wait until the service holds this fact; False if it is closed or too late."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._held >= seq, seconds)
            return self._held >= seq

    def _drop_oldest_progress(self) -> None:
        for index, fact in enumerate(self._waiting):
            if isinstance(fact.body, Progress):
                del self._waiting[index]
                return

    def _run(self) -> None:
        failures = 0
        while not self._is_closed:
            with self._changed:
                if failures == 0 and not self._waiting:
                    self._changed.wait(self._heartbeat_seconds)
                facts = tuple(self._waiting[:FACTS_PER_REPORT_MAX])
            report = Report(facts=facts, rank_steps=self.rank_steps)
            if self._send(self._urls[failures % len(self._urls)], report):
                failures = 0
                continue
            failures += 1
            pause = min(BACKOFF_SECONDS * 2 ** min(failures - 1, 10), BACKOFF_SECONDS_MAX)
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_closed,
                    # Jitter, no secret.
                    pause * random.uniform(0.5, 1.0),  # noqa: S311
                )

    def _send(self, url: str, report: Report) -> bool:
        """Send one report; False where it is to be sent again: the service is away, say."""
        try:
            response = self._http.post(url, content=report.model_dump_json())
        except (httpx.HTTPError, OSError) as error:
            log.warning("the service does not answer: %s", error)
            return False
        if response.status_code == httpx.codes.GONE:  # nothing else ends a gang
            log.error("this attempt is closed: %s", response.text)
            with self._changed:
                self._is_closed = True
                self._changed.notify_all()
            return True
        try:
            response.raise_for_status()
            answer = ReportAnswer.model_validate_json(response.content)
        except (httpx.HTTPStatusError, ValidationError) as error:
            log.warning("the service does not understand: %s", error)
            return False
        with self._changed:
            self._heard_at = time.monotonic()
            self._held = max(self._held, answer.held)
            self._waiting = [fact for fact in self._waiting if fact.seq > self._held]
            self._stop_order = answer.stop or self._stop_order
            self._profile_order = answer.profile or self._profile_order
            self._changed.notify_all()
            # Facts that it answers and does not hold are told again, but not at once.
            return not report.facts or self._held >= report.facts[0].seq
