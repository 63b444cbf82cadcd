"""What must be true whatever happened: one function, called after every step and at the end."""

from collections import Counter, defaultdict

from service.domain.asks import JobFilter
from service.domain.job import (
    ATTEMPT_MOVES,
    FINAL_JOB_STATES,
    JOB_MOVES,
    OPEN_ATTEMPT_STATES,
    AttemptMove,
    AttemptState,
    JobMove,
    JobState,
)
from service.domain.records import Attempt, Event, Job
from tests.simulation.world import World
from workers.contract.wire import JobId

ALL = 100_000


class Invariants:
    """Remembers what it saw, since some promises are about time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._final: dict[JobId, Job] = {}
        self._numbers: dict[JobId, int] = {}
        self._steps: dict[JobId, int] = {}

    def check(self, *, whole: bool = False) -> None:
        """Check everything that is so now; `whole` also reads all that ever happened."""
        store = self._world.store
        was_faulty, store.is_faulty = store.is_faulty, False  # a look changes nothing
        try:
            jobs = store.jobs(JobFilter(limit=ALL))
            holding = store.attempts_not_gone()
            self._acked_jobs_are_there(jobs)
            self._final_is_final(jobs)
            self._numbers_only_grow(jobs)
            self._one_open_attempt_and_it_is_the_newest(jobs, holding)
            self._no_node_is_overfull(holding)
            self._gangs_are_whole(jobs, holding)
            self._no_gang_was_started_twice()
            assert self._world.complaints.texts == []
            if whole:
                for job in jobs:
                    self._course(job)
        finally:
            store.is_faulty = was_faulty

    def _acked_jobs_are_there(self, jobs: list[Job]) -> None:
        """1 and 2: no acknowledged submit is lost, and one job for each key."""
        by_key = {job.key: job.id for job in jobs}
        assert len(by_key) == len(jobs)
        for key, job_id in self._world.acked.items():
            assert by_key.get(key) == job_id, f"the submit of {key} is lost"

    def _final_is_final(self, jobs: list[Job]) -> None:
        """7: nothing moves what has ended."""
        for job in jobs:
            before = self._final.get(job.id)
            assert before is None or before == job, f"{before} became {job}"
            if job.is_final:
                self._final[job.id] = job

    def _numbers_only_grow(self, jobs: list[Job]) -> None:
        for job in jobs:
            assert job.attempt >= self._numbers.get(job.id, 0)
            self._numbers[job.id] = job.attempt

    def _one_open_attempt_and_it_is_the_newest(
        self, jobs: list[Job], holding: list[Attempt]
    ) -> None:
        """3; and a job runs exactly while an open attempt without an outcome is there for it."""
        newest = {job.id: job.attempt for job in jobs}
        open_ones = Counter(one.job_id for one in holding if one.is_open)
        assert all(count == 1 for count in open_ones.values()), open_ones
        for one in holding:
            assert one.number == newest[one.job_id] or one.state is AttemptState.LOST
        at_work = {one.job_id for one in holding if one.is_open and one.outcome is None}
        running = {job.id for job in jobs if job.state in (JobState.RUNNING, JobState.STOPPING)}
        assert running == at_work, running ^ at_work

    def _no_node_is_overfull(self, holding: list[Attempt]) -> None:
        """5: what is granted of a node is never more than it has."""
        cpus: defaultdict[str, int] = defaultdict(int)
        gpus: defaultdict[str, int] = defaultdict(int)
        for rank in (rank for one in holding for rank in one.ranks):
            cpus[rank.node_id] += rank.cpus
            gpus[rank.node_id] += rank.gpus
        for node in cpus:
            assert cpus[node] <= self._world.capacity[node][0], f"{node} is overfull"
            assert gpus[node] <= self._world.capacity[node][1], f"{node} is overfull"

    def _gangs_are_whole(self, jobs: list[Job], holding: list[Attempt]) -> None:
        """6: every rank has its share, on nodes of the one agent."""
        specs = {job.id: job.spec.resources for job in jobs}
        for one in holding:
            asked = specs[one.job_id]
            assert [rank.rank for rank in one.ranks] == list(range(asked.workers))
            assert {(rank.cpus, rank.gpus) for rank in one.ranks} == {
                (asked.cpus_per_worker, asked.gpus_per_worker)
            }
            assert {rank.node_id.split("-")[0] for rank in one.ranks} == {one.agent}

    def _no_gang_was_started_twice(self) -> None:
        """3: two gangs of one attempt never."""
        for cluster in self._world.clusters:
            assert all(count == 1 for count in cluster.launches.values())

    # --- what ever happened to one job

    def _course(self, job: Job) -> None:
        events = self._world.store.events(job.id, 0, ALL)
        attempts = self._world.store.attempts(job.id)
        assert [one.number for one in attempts] == list(range(1, job.attempt + 1))
        _replay_job(job, [one for one in events if one.attempt is None])
        for one in attempts:
            _replay_attempt(one, [event for event in events if event.attempt == one.number])
        _nobody_speaks_after_its_successor(events)
        self._checkpoints_stand(job)
        told_by = [one.attempt for one in self._world.store.measurements(job.id, ALL)]
        assert told_by == sorted(told_by), "an attempt wrote after the next one"

    def _checkpoints_stand(self, job: Job) -> None:
        """9: the current checkpoint is there as it was written, and never an earlier step."""
        standing = [one for one in self._world.store.checkpoints(job.id) if not one.pruned]
        if not standing:
            assert job.id not in self._steps, "the current checkpoint was deleted"
            return
        current = standing[0]
        assert not current.prune_asked, "the current checkpoint is about to be deleted"
        assert self._world.disk.checkpoints.get(current.ref.path) == current.ref.manifest_sha256
        assert current.ref.attempt <= job.attempt
        assert current.ref.step >= self._steps.get(job.id, 0)
        self._steps[job.id] = current.ref.step


def _replay_job(job: Job, events: list[Event]) -> None:
    """8: the log of its moves gives the row; and 7: one final event, the last one."""
    state: JobState | None = None
    for event in events:
        if event.move == "notice":
            continue
        goal = JobState.QUEUED if state is None else JOB_MOVES[state, JobMove(event.move)]
        assert (event.source, event.goal) == (state, goal)
        state = goal
    assert state is job.state
    assert sum(event.goal in FINAL_JOB_STATES for event in events) == job.is_final


def _replay_attempt(attempt: Attempt, events: list[Event]) -> None:
    state: AttemptState | None = None
    for event in events:
        if event.move == "notice":
            continue
        if state is None:
            assert event.move == JobMove.RESERVE
            goal = AttemptState.RESERVED
        else:
            goal = ATTEMPT_MOVES[state, AttemptMove(event.move)]
        assert (event.source, event.goal) == (state, goal)
        state = goal
    assert state is attempt.state


def _nobody_speaks_after_its_successor(events: list[Event]) -> None:
    """4: once e + 1 is reserved, e can only be given up or buried."""
    newest = 0
    for event in events:
        if event.attempt is None:
            continue
        if event.move == JobMove.RESERVE:
            assert event.attempt == newest + 1
            newest = event.attempt
        elif event.attempt != newest:
            assert event.move == AttemptMove.BURY, event
            assert event.source not in OPEN_ATTEMPT_STATES
