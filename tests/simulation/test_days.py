"""Hours of the whole control plane in seconds: whatever breaks, the invariants hold, jobs end."""

from collections import Counter
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import update

from service.control.elector import LEASE_SECONDS
from service.control.ingest import Ingest
from service.control.reconciler import LOST_LIMIT
from service.domain.asks import JobFilter
from service.domain.job import JobMove, JobState
from service.domain.records import Attempt, Job
from service.planner.placement import Cluster
from service.store.facts import FactWrites
from service.store.moves import MoveWrites
from service.store.tables import attempts
from tests.simulation.flaky_store import FlakyStore
from tests.simulation.invariants import Invariants
from tests.simulation.world import STEP_SECONDS, World
from workers.contract.paths import checkpoint_folder
from workers.contract.wire import JobId

SEEDS = (1, 2, 3)
STEPS = 600
SOAK_SEEDS = range(100, 200)
SOAK_STEPS = 2000
SOAK_JOBS = 60
WHOLE_EVERY_STEPS = 25  # reading everything that ever happened costs as much as a few steps
TRAINING_SECONDS = 12_000.0  # what is left to train when the faults stop, one gang after another
MUST_FIRE = {
    *(
        f"{call} {fault}"
        for call in ("sync", "report")
        for fault in ("lost", "repeated", "delayed")
    ),
    *(f"answer to {call} lost" for call in ("sync", "claim", "report")),
    "claim lost",
    "claim repeated",
    "claim delayed",
    "late call refused: closed",
    "gang killed",
    "gang failed",
    "gang froze",
    "gang cut off",
    "gang lied",
    "gang never spoke",
    "gang killed by a stop",
    "gang told to stop: cancel",
    "gang told to stop: hold",
    "agent restarted",
    "agent away",
    "older boot spoke",
    "absence of a stranger told",
    "node lost",
    "cluster cut off",
    "cluster replaced",
    "service away",
    "server froze",
    "leader frozen over its lease",
    "database away before the commit",
    "database away after the commit",
    "crossing after a snapshot",
    "crossing after a read of a job",
    "crossing after a read of an attempt",
    "crossing after a read of all attempts",
    "cancel",
    "hold",
    "release",
}


def live(world: World, steps: int) -> None:
    """Let everything break for so many steps, then let it mend and every job end."""
    invariants = Invariants(world)
    for step in range(steps):
        world.step(faults=True)
        invariants.check(whole=step % WHOLE_EVERY_STEPS == 0)
    world.mend()
    settle_seconds = TRAINING_SECONDS + LOST_LIMIT.total_seconds() + LEASE_SECONDS
    for step in range(int(settle_seconds / STEP_SECONDS)):
        if world.is_settled():
            break
        world.step(faults=False)
        invariants.check(whole=step % WHOLE_EVERY_STEPS == 0)
    invariants.check(whole=True)
    assert world.is_settled(), [job for job in all_jobs(world) if not job.is_final]


def all_jobs(world: World) -> list[Job]:
    return world.store.jobs(JobFilter(limit=1000))


def test_whatever_breaks_the_invariants_hold_and_every_job_ends() -> None:
    fired, states = Counter[str](), Counter[JobState]()
    num_lost = num_attempts = 0
    for seed in SEEDS:
        with closing(World(seed)) as world:
            live(world, STEPS)
            fired += world.fired
            states += Counter(job.state for job in all_jobs(world))
            num_attempts += sum(job.attempt for job in all_jobs(world))
            num_lost += world.num_lost()
    assert MUST_FIRE - fired.keys() == set()
    assert num_lost >= 3
    assert num_attempts > states.total()
    assert states[JobState.SUCCEEDED] > states.total() / 2


def live_through_a_partition(world: World) -> None:
    """A cluster is cut off for so long that its gang is given up and granted anew elsewhere."""
    world.want(world.some_spec(seed=450, resources={"workers": 1}))
    invariants = Invariants(world)
    for step in range(600):
        if step == 50:
            world.cut_off(0, world.now + 600.0)
        world.step(faults=False)
        invariants.check(whole=step % WHOLE_EVERY_STEPS == 0)
    invariants.check(whole=True)


def test_a_gang_that_comes_back_from_a_partition_is_told_to_end_and_its_job_goes_on() -> None:
    with closing(World(0)) as world:
        live_through_a_partition(world)
        (job,) = all_jobs(world)
        assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
        assert world.num_lost() == 1
        assert world.fired["stale gang told to end"] == 1
        assert world.is_settled()


@pytest.mark.soak
@pytest.mark.parametrize("seed", SOAK_SEEDS)
def test_whatever_breaks_for_longer_the_invariants_still_hold(seed: int) -> None:
    with closing(World(seed, SOAK_JOBS)) as world:
        live(world, SOAK_STEPS)


# --- the invariants themselves: a control plane that breaks a rule is caught


def live_until_caught() -> None:
    for seed in SEEDS:
        with closing(World(seed)) as world:
            live(world, STEPS)


def test_a_planner_that_forgets_lost_gangs_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    init = Cluster.__init__
    monkeypatch.setattr(Cluster, "__init__", lambda self, nodes, _running: init(self, nodes, ()))
    with pytest.raises(AssertionError, match="is overfull"):
        live_until_caught()


def test_a_leader_that_writes_without_its_term_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.flaky_store.FREEZE_SHARE", 0.5)  # each seed meets it then
    write = FlakyStore.write
    monkeypatch.setattr(FlakyStore, "write", lambda self, _leader=None: write(self))
    with pytest.raises(AssertionError, match="is overfull"):
        live_until_caught()


def test_a_store_that_deletes_the_current_checkpoint_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask = FactWrites.ask_prune
    monkeypatch.setattr(FactWrites, "ask_prune", lambda self, job_id, *_: ask(self, job_id, 0))
    with pytest.raises(AssertionError, match="about to be deleted"):
        live_until_caught()


def test_an_ingest_that_takes_a_strangers_checkpoint_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "service.control.ingest.checkpoint_folder",
        lambda _job_id, *rest: checkpoint_folder(JobId("somebody-elses"), *rest),
    )
    with pytest.raises(AssertionError):
        live_until_caught()


def test_a_move_without_its_event_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    log = MoveWrites._log

    def forgetful(self: MoveWrites, job_id: JobId, number: int | None, *rest: Any) -> None:
        if JobMove.RELEASE not in rest:
            log(self, job_id, number, *rest)

    monkeypatch.setattr(MoveWrites, "_log", forgetful)
    with pytest.raises((AssertionError, KeyError)):
        live_until_caught()


def test_an_old_attempt_that_is_still_heard_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def any_attempt(self: Ingest, attempt: Attempt) -> tuple[Job, Attempt]:
        job = self._store.job(attempt.job_id)
        now = self._store.attempt(attempt.job_id, attempt.number)
        assert job is not None
        assert now is not None
        return job, now

    def hold(self: FactWrites, attempt: Attempt, up_to: int) -> None:
        here = (attempts.c.job_id == attempt.job_id) & (attempts.c.number == attempt.number)
        values = {"held": up_to, "heard_at": self.now()}
        self._connection.execute(update(attempts).where(here).values(values))

    monkeypatch.setattr(Ingest, "_look", any_attempt)
    monkeypatch.setattr(FactWrites, "hold_facts", hold)
    with closing(World(0)) as world, pytest.raises(AssertionError, match="wrote after the next"):
        live_through_a_partition(world)
