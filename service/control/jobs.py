"""What people ask of their jobs: submit, look, cancel, hold, release, trace."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from service.control.checkpoints import named
from service.control.code import Code
from service.control.diagnosis import CODES, Diagnosis, diagnose
from service.control.files import data_place
from service.control.lineage import with_ancestor
from service.control.ports import Bus, FleetStore, PlanStore
from service.control.views import DryRun, JobStatus, Submitted
from service.domain.asks import JobFilter, NewJob, Why
from service.domain.errors import BadInput, Conflict, NotFound, Stale
from service.domain.job import AttemptMove, AttemptState, JobMove, JobState
from service.domain.records import Checkpoint, Event, Job, Measurement, Reason
from service.domain.spec import JobSpec
from service.planner.placement import Gang
from service.planner.plan import impossible, plan
from service.planner.snapshot import Node, Pending, Snapshot
from workers.contract.outcome import StopReason
from workers.contract.reports import StageKind
from workers.contract.wire import JobId

STALE_TRIES = 10  # a job that moves more often while we look is moved by a loop gone wild
KEY_CHARS_MAX = 200
LIKE_MAX = 5  # candidates that an ambiguous id names
LATEST = "@latest"
DIAGNOSED_LINES = 2000  # of the curve: some minutes at the least
DIAGNOSED_EVENTS = 5000  # that bear a verdict; a gang says each of them once in an attempt


class Store(FleetStore, PlanStore, Protocol):
    """All that this file touches."""


class Jobs:
    """One application service for both doors, the command line and HTTP."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        *,
        storage_url: str,
        data_roots: tuple[str, ...],
        ids: Callable[[], JobId],
    ) -> None:
        self._store = store
        self._bus = bus
        self._storage_url = storage_url
        self._code = Code(storage_url)
        self._data_roots = data_roots
        self._ids = ids

    def submit(self, spec: JobSpec, *, key: str, owner: str) -> Submitted:
        """Store a job; the same key and the same spec give the same job again.

        Raises:
            BadInput: data that is not there or may not be read, or a gang that no cluster holds.
            Conflict: the key has submitted another spec.
        """
        if not 0 < len(key) <= KEY_CHARS_MAX:
            raise BadInput(f"a key has 1 to {KEY_CHARS_MAX} characters", place="key")
        earlier = self._store.job_of_key(key)
        if earlier is None:  # what was accepted once stays accepted
            self._check(spec)
        spec, ancestor = with_ancestor(self._store, self._find_in(spec.project), spec, earlier)
        new_id = self._ids()
        with self._store.write() as tx:
            job = tx.add_job(NewJob(new_id, key, owner, spec))
            if ancestor is not None and not tx.pin(ancestor.job_id, ancestor.ref.path, pinned=True):
                raise Conflict(f"{ancestor.ref.path} is being deleted")
        self._bus.wake("queue")
        return Submitted(job, created=job.id == new_id)

    def keep_code(self, sha256: str, content: bytes) -> None:
        """Keep a user's packed code for jobs that will name it; raises BadInput, Unreachable."""
        self._code.put(sha256, content)

    def dry_run(self, spec: JobSpec) -> DryRun:
        """Say what would happen to the job now; raises as `submit` does, stores nothing."""
        self._check(spec)
        with_ancestor(self._store, self._find_in(spec.project), spec, None)
        snapshot = self._store.snapshot()
        asked = spec.resources
        pending = Pending(
            job_id=JobId("this job"),
            seq=1 + max((job.seq for job in snapshot.pending), default=0),
            attempt=0,
            queue=spec.queue,
            tenant=spec.project,
            priority=spec.priority,
            submitted_at_ms=snapshot.now_ms,
            not_before_ms=None,
            workers=asked.workers,
            cpus_per_worker=asked.cpus_per_worker,
            gpus_per_worker=asked.gpus_per_worker,
        )
        planned = plan(
            Snapshot(
                snapshot.now_ms, snapshot.nodes, snapshot.running, (*snapshot.pending, pending)
            )
        )
        for wait in planned.waits:
            if wait.job_id == pending.job_id:
                return DryRun(False, wait.reason, wait.sentence)
        return DryRun(True, Reason.RESERVED, f"{asked} would start at once")

    def find(self, ref: str, *, project: str | None = None) -> Job:
        """The job with this id, with an id that begins or ends so, or the newest (`@latest`).

        With a project, all other projects' jobs are as if they were not there.

        Raises:
            NotFound: there is no such job.
            BadInput: there are several.
        """
        where = "" if project is None else f" in project {project}"
        if ref == LATEST:
            newest = self._store.jobs(JobFilter(project=project, limit=1))
            if not newest:
                raise NotFound(
                    f"there is no job{where} yet", remedy="submit one: strata submit FILE"
                )
            return newest[0]
        job = self._store.job(JobId(ref))
        if job is not None and project in (None, job.spec.project):
            return job
        like = self._store.jobs_like(ref.lower(), LIKE_MAX, project) if ref else []
        if not like:
            raise NotFound(f"there is no job {ref!r}{where}", remedy="strata jobs lists them")
        if len(like) > 1:
            ids = ", ".join(job.id for job in like)
            raise BadInput(f"{ref!r} means more than one job: {ids}", remedy="write more of the id")
        return like[0]

    def _find_in(self, project: str) -> Callable[[str], Job]:
        return partial(self.find, project=project)

    def status(self, ref: str) -> JobStatus:
        """A job with all that is known of its course."""
        job = self.find(ref)
        return JobStatus(
            job=job,
            attempts=tuple(self._store.attempts(job.id)),
            stages=tuple(self._store.stages(job.id)),
            latest=self._store.latest(job.id),
            checkpoint=self._store.current_checkpoint(job.id),
        )

    def events(self, ref: str, *, after_id: int = 0, limit: int = 500) -> list[Event]:
        """The job's events in order, after the one with this id."""
        return self._store.events(self.find(ref).id, after_id, limit)

    def measurements(
        self, ref: str, *, limit: int, before_id: int | None = None
    ) -> list[Measurement]:
        """The job's curves in order, the newest `limit` lines, or of those before this one."""
        return self._store.measurements(self.find(ref).id, limit, before_id)

    def checkpoints(self, ref: str) -> list[Checkpoint]:
        """The job's checkpoints, newest first; of pruned ones only the newest."""
        return self._store.checkpoints(self.find(ref).id)

    def pin(self, ref: str, path: str | None, *, pinned: bool, actor: str) -> Checkpoint:
        """Keep a checkpoint whatever comes after it, or no more; by default the current one.

        Raises:
            NotFound: the job has no such checkpoint.
            Conflict: it is being deleted; or it shall go, and another job is to begin from it.
        """
        job = self.find(ref)
        place, policy = named(self._store, job, path).ref.path, job.spec.checkpoint
        with self._store.write() as tx:
            if not tx.pin(job.id, place, pinned):
                raise Conflict(f"{place} is being deleted")
            heir = None if pinned else tx.heir(place)
            if heir is not None:
                raise Conflict(
                    f"job {heir} begins from {place}", remedy="unpin it once that job has ended"
                )
            tx.notice(job.id, None, actor, "pinned" if pinned else "unpinned", place)
            if not pinned:
                tx.ask_prune(job.id, policy.keep_last, policy.best.mode if policy.best else None)
        return named(self._store, job, place)

    def profile(self, ref: str, steps: int, *, actor: str) -> Job:
        """Have the next steps of a job that runs traced on its rank 0; an event tells the rest.

        Raises:
            Conflict: it does not run.
        """
        return self._until_not_stale(ref, lambda job: self._profile(job, steps, actor))

    def diagnose(self, ref: str) -> Diagnosis:
        """Why a job does not learn, or not fast."""
        job = self.find(ref)
        stages = self._store.stages(job.id)
        finetune = next((one.index for one in stages if one.kind is StageKind.FINETUNE), None)
        return diagnose(
            job,
            self._store.attempts(job.id),
            finetune=finetune,
            first=None if finetune is None else self._store.first_line(job.id, finetune),
            curve=self._store.measurements(job.id, DIAGNOSED_LINES),
            events=self._store.events(job.id, 0, DIAGNOSED_EVENTS, CODES),
        )

    # The last of those that give lists: below it, `list` in an annotation would mean this method.
    def list(self, wanted: JobFilter) -> list[Job]:
        """Jobs, newest first."""
        return self._store.jobs(wanted)

    def cancel(self, ref: str, *, actor: str) -> Job:
        """End the job for good; a gang that runs stops at its next step."""
        return self._until_not_stale(ref, lambda job: self._cancel(job, actor))

    def hold(self, ref: str, *, actor: str) -> Job:
        """Keep the job from running; a gang that runs writes a checkpoint and stops."""
        return self._until_not_stale(ref, lambda job: self._hold(job, actor))

    def release(self, ref: str, *, actor: str) -> Job:
        """Let a held job wait for its turn again."""
        return self._until_not_stale(ref, lambda job: self._release(job, actor))

    # --- the moves

    def _cancel(self, job: Job, actor: str) -> Job:
        if job.is_final:
            raise Conflict(f"job {job.id} is {job.state} already")
        why = Why(actor, Reason.OWNER, "cancelled")
        if job.state in (JobState.QUEUED, JobState.HELD):
            with self._store.write() as tx:
                return tx.move_job(job, JobMove.CANCEL, why)
        if job.stop_reason is StopReason.CANCEL:
            return job  # it is on its way
        return self._stop(job, StopReason.CANCEL, JobMove.CANCEL, why)

    def _hold(self, job: Job, actor: str) -> Job:
        why = Why(actor, Reason.OWNER, "held")
        match job.state:
            case JobState.QUEUED:
                with self._store.write() as tx:
                    return tx.move_job(job, JobMove.HOLD, why)
            case JobState.RUNNING:
                return self._stop(job, StopReason.HOLD, JobMove.HOLD, why)
            case JobState.HELD:
                return job
            case JobState.STOPPING if job.stop_reason is StopReason.HOLD:
                return job
        raise Conflict(f"job {job.id} is {job.state}: there is nothing to hold")

    def _release(self, job: Job, actor: str) -> Job:
        if job.state is JobState.QUEUED:
            return job
        if job.state is not JobState.HELD:
            remedy = "wait until it is held" if job.state is JobState.STOPPING else ""
            raise Conflict(f"job {job.id} is {job.state}, not held", remedy=remedy)
        with self._store.write() as tx:
            return tx.move_job(job, JobMove.RELEASE, Why(actor, Reason.OWNER, "released"))

    def _profile(self, job: Job, steps: int, actor: str) -> Job:
        attempt = self._store.attempt(job.id, job.attempt)
        if job.state is not JobState.RUNNING or attempt is None:
            raise Conflict(f"job {job.id} is {job.state}: there are no steps to trace")
        with self._store.write() as tx:
            tx.ask_profile(attempt, steps)
            tx.notice(job.id, attempt.number, actor, "profile_asked", f"the next {steps} steps")
        return job

    def _stop(self, job: Job, reason: StopReason, end: JobMove, why: Why) -> Job:
        """Tell the gang to stop; where nobody has claimed it yet there is no gang to tell."""
        attempt = self._store.attempt(job.id, job.attempt)
        assert attempt is not None
        with self._store.write() as tx:
            job = tx.move_job(job, JobMove.STOP, why, stop_reason=reason)
            if attempt.state is AttemptState.RESERVED:
                tx.move_attempt(attempt, AttemptMove.BURY, why, stop_reason=reason)
                job = tx.move_job(job, end, why)
            elif attempt.state in (AttemptState.STARTING, AttemptState.RUNNING):
                tx.move_attempt(attempt, AttemptMove.STOP, why, stop_reason=reason)
        self._bus.wake(f"agent/{attempt.agent}")
        return job

    def _until_not_stale(self, ref: str, act: Callable[[Job], Job]) -> Job:
        for _ in range(STALE_TRIES):
            job = self.find(ref)
            try:
                job = act(job)
            except Stale:
                continue
            self._bus.wake("queue")
            self._bus.wake(f"job/{job.id}")
            return job
        raise Conflict(f"job {ref} moves too fast to be told anything", remedy="try again")

    def _check(self, spec: JobSpec) -> None:
        """Refuse what can be known to fail before it is stored."""
        pretraining = None if spec.pretraining is None else spec.pretraining.data
        for place, data in (("data", spec.data), ("pretraining.data", pretraining)):
            path = getattr(data, "path", None)
            if path is not None:
                data_place(path, self._storage_url, self._data_roots, place=f"{place}.path")
        if spec.init_from is not None and spec.init_from.weights is not None:
            weights = spec.init_from.weights
            data_place(weights, self._storage_url, self._data_roots, place="init_from.weights")
        if spec.code is not None:
            self._code.check(spec.code)
        asked = spec.resources
        gang = Gang(asked.workers, asked.cpus_per_worker, asked.gpus_per_worker)
        nodes = tuple(
            Node(node.node_id, agent, node.cpus, node.gpus) for agent, node in self._store.nodes()
        )
        sentence = impossible(nodes, gang)
        if sentence is not None:
            raise BadInput(sentence, place="resources", remedy="ask for less")
