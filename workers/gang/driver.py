"""The gang's driver: one detached actor that sees an attempt through, from birth to outcome.

It imports no torch and computes nothing, so a rank that holds its interpreter can't starve the
heartbeats. It outlives the agent that made it and any absence of the service.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace

import ray

from workers.contract.launch import LaunchSpec
from workers.contract.outcome import Outcome, Result, StopReason
from workers.contract.reports import Ended, FactBody, GangStarted, Noticed, StopOrder
from workers.gang.fact_log import FactLog, inherited, with_inherited
from workers.gang.log_chunks import capture
from workers.gang.oom_kills import num_oom_kills
from workers.gang.rank import TRAIN
from workers.gang.ray_gang import RayGang
from workers.gang.reporter import Reporter
from workers.gang.verdicts import driver_failed, failed_to_start, hanging, of_ends
from workers.gang.watchdog import Watchdog, lagging

POLL_SECONDS = 0.05  # how late a death, a fact or an order may be noticed
COLLATERAL_SECONDS = 0.3  # after the first error, for those that come of it
LAST_WORDS_SECONDS = 5.0  # for the answer of a rank that has ended; a busy machine takes its time
UP_PHASES = frozenset({"starting", "joining"})  # before every rank has joined

log = logging.getLogger(__name__)


class Driver:
    """The actor; `run` is called once and ends the process."""

    def run(
        self, launch_json: str, service_urls: list[str], token: str, entry: str = TRAIN
    ) -> None:
        """See the attempt through."""
        launch = LaunchSpec.model_validate_json(launch_json)
        chunks = capture(launch.storage_url, launch.job_id, launch.attempt, "driver")
        reporter = Reporter(launch, service_urls, token)
        facts = FactLog(launch, reporter.submit)
        try:
            outcome = _Watch(launch, reporter, facts, entry).run()
        except Exception as error:
            log.exception("the driver failed")
            outcome = driver_failed(f"the driver failed: {error!r}")
        if not reporter.is_closed:
            log.info("%s %s", outcome.result, outcome.message)
            facts.add(Ended(outcome=outcome))
            reporter.wait_held(facts.last_seq, launch.deadlines.unreachable_seconds)
        chunks.close()
        ray.actor.exit_actor()


class _Watch:
    """One attempt while it lives."""

    def __init__(self, launch: LaunchSpec, reporter: Reporter, facts: FactLog, entry: str) -> None:
        self._reporter = reporter
        self._facts = facts
        self._watchdog = Watchdog(launch.deadlines)
        self._steps = [0] * launch.world_size
        self._phases = ["starting"] * launch.world_size
        self._devices = [""] * launch.world_size
        self._is_up = False
        self._early: list[FactBody] = []  # told before all were known to be up
        self._order: StopOrder | None = None
        self._ordered_at = 0.0
        self._began_at = time.monotonic()
        found = inherited(launch)
        for fact in found:
            facts.add(fact)
        self._launch = with_inherited(launch, found)
        self._oom_kills_before = num_oom_kills()
        self._gang = RayGang(self._launch, entry)

    def run(self) -> Outcome:
        """Watch until there is an outcome; nothing of the gang lives afterwards."""
        try:
            while True:
                outcome = self._look()
                if outcome is not None:
                    return outcome.model_copy(update={"seconds": time.monotonic() - self._began_at})
        finally:
            self._gang.end()

    def _look(self) -> Outcome | None:
        if self._reporter.is_closed:
            return Outcome(result=Result.STOPPED, stop_reason=StopReason.LOST, message="closed")
        self._gang.try_meet()
        ends = self._gang.ends(POLL_SECONDS)
        self._hear()
        if ends:
            return self._conclude(ends)
        return self._check_start() or self._check_stop() or self._check_hang()

    def _hear(self, wait_seconds: float = 0.0) -> None:
        """Take what the ranks have to say."""
        answers = self._gang.poll(self._order, self._reporter.profile_order, wait_seconds)
        for rank, status in answers.items():
            self._steps[rank], self._phases[rank] = status.step, status.phase
            self._devices[rank] = status.device
            self._early += status.facts
        if not self._is_up and not UP_PHASES & set(self._phases):
            self._start()
        if self._is_up:
            self._tell_early()
        self._reporter.rank_steps = tuple(self._steps)

    def _tell_early(self) -> None:
        for fact in self._early:
            self._facts.add(fact)
        self._early = []

    def _start(self) -> None:
        self._is_up = True
        resumed = self._launch.resume[0] if self._launch.resume else None
        self._facts.add(
            GangStarted(
                world_size=self._launch.world_size,
                devices=tuple(self._devices),
                resumed_from=resumed,
            )
        )

    def _conclude(self, ends: Mapping[int, object]) -> Outcome | None:
        """Decide once all have ended well, or one has not."""
        verdict = self._verdict(ends)
        if verdict is None:
            return None  # some rank is still on its way to the same end
        if verdict.result is Result.FAILED:
            deadline = time.monotonic() + COLLATERAL_SECONDS
            while time.monotonic() < deadline and len(ends) < self._launch.world_size:
                ends = self._gang.ends(POLL_SECONDS)
            verdict = self._verdict(ends) or verdict
        # A poll may be on its way that was asked before the last fact was told: so twice.
        self._hear(LAST_WORDS_SECONDS)
        self._hear(LAST_WORDS_SECONDS)
        self._tell_early()
        return verdict

    def _verdict(self, ends: Mapping[int, object]) -> Outcome | None:
        return of_ends(self._launch, ends, num_oom_kills() > self._oom_kills_before)

    def _check_start(self) -> Outcome | None:
        limit = self._launch.deadlines.start_seconds
        if self._is_up or time.monotonic() - self._began_at < limit:
            return None
        return failed_to_start(self._phases, limit)

    def _check_stop(self) -> Outcome | None:
        """Take an order, or give one where a limit of our own is reached; kill after the grace."""
        if self._order is None:
            self._order = self._reporter.stop_order or self._own_order()
            if self._order is None:
                return None
            self._ordered_at = time.monotonic()
            log.info("told to stop: %s", self._order.reason)
        if not self._is_up and "starting" in self._phases and not any(self._steps):
            return Outcome(
                result=Result.STOPPED,
                stop_reason=self._order.reason,
                message="stopped before it had begun",
            )
        if time.monotonic() - self._ordered_at < self._order.grace_seconds:
            return None
        return Outcome(
            result=Result.STOPPED,
            stop_reason=self._order.reason,
            message=f"killed: it had not stopped within {self._order.grace_seconds:.0f} s",
        )

    def _own_order(self) -> StopOrder | None:
        deadlines = self._launch.deadlines
        ran = time.monotonic() - self._began_at
        grace = deadlines.stop_grace_seconds
        if deadlines.max_duration_seconds is not None and ran > deadlines.max_duration_seconds:
            return StopOrder(reason=StopReason.TIME_LIMIT, grace_seconds=grace)
        if self._reporter.silence_seconds > deadlines.unreachable_seconds:
            return StopOrder(reason=StopReason.UNREACHABLE, grace_seconds=grace)
        return None

    def _check_hang(self) -> Outcome | None:
        if not self._is_up:
            return None
        hang = self._watchdog.look(self._steps, self._phases, time.monotonic())
        if hang is None:
            return None
        stacks = self._gang.stacks()
        hang = replace(hang, rank=lagging(self._steps, stacks))
        self._facts.add(Noticed(code="hang", sentence=hang.sentence))
        return hanging(hang, stacks)
