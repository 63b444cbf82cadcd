"""What Prometheus scrapes: read from the store at each scrape, so that replicas and restarts agree.

Series of a job are there while it runs; what would count up for ever in one process is counted from
the rows instead, and is right after a restart too.
"""

import logging
from collections import Counter as Counts  # prometheus_client has another Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.control.loop import ControlLoop
from service.domain.errors import Unreachable
from service.domain.job import FINAL_JOB_STATES, JobState
from service.domain.records import Checkpoint, Job, Measurement
from service.http.services import Services, ServiceStore

log = logging.getLogger(__name__)

REQUEST_BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.5, 10.0, 30.0)  # up to a whole long-poll


class HttpMetrics:
    """What this process itself sees: its requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "strata_http_requests",
            "Answered HTTP requests.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "strata_http_request_seconds",
            "Time from a request to its answer, in seconds; long-polls wait on purpose.",
            ["route"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )


def make_registry(services: Services) -> tuple[CollectorRegistry, HttpMetrics]:
    """A registry of this server's own, with everything in it."""
    registry = CollectorRegistry()
    build = Gauge("strata_build_info", "The running release.", ["version"], registry=registry)
    build.labels(version("strata")).set(1)
    registry.register(StoreCollector(services.store))
    registry.register(LoopCollector(services.loop))
    return registry, HttpMetrics(registry)


class StoreCollector(Collector):
    """What the database knows; while it is away, only that, so that the rest is still scraped."""

    def __init__(self, store: ServiceStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Read it once for this scrape."""
        up = GaugeMetricFamily("strata_database_up", "1 while the database answers.")
        try:
            found = [*_queue(self._store), *_fleet(self._store), *_training(self._store)]
        except Unreachable as refusal:
            log.warning("metrics without the database's: %s", refusal)
            found = []
        up.add_metric([], float(bool(found)))
        yield from (up, *found)


def _queue(store: ServiceStore) -> Iterator[Metric]:
    """The jobs, counted from their rows."""
    counts = store.count_jobs()
    now = GaugeMetricFamily("strata_jobs", "Jobs by queue and state.", labels=["queue", "state"])
    submitted = CounterMetricFamily(
        "strata_jobs_submitted", "Jobs that were accepted.", labels=["queue"]
    )
    finished = CounterMetricFamily(
        "strata_jobs_finished", "Jobs that ended, by outcome.", labels=["outcome"]
    )
    queues = sorted({queue for queue, _ in counts})
    for queue in queues:
        by_state = {state: counts.get((queue, state), 0) for state in JobState}
        for state, count in by_state.items():  # zeros too: a series that ends keeps its last value
            now.add_metric([queue, state], count)
        submitted.add_metric([queue], sum(by_state.values()))
    for outcome in sorted(FINAL_JOB_STATES):
        finished.add_metric([outcome], sum(counts.get((queue, outcome), 0) for queue in queues))
    oldest = GaugeMetricFamily(
        "strata_job_oldest_queued_timestamp_seconds",
        "When the job that has waited longest was submitted, as Unix time.",
        labels=["queue"],
    )
    for queue, job in _oldest(store).items():
        oldest.add_metric([queue], job.submitted_at.timestamp())
    yield from (now, submitted, finished, oldest)


def _oldest(store: ServiceStore) -> dict[str, Job]:
    """The job that has waited longest in each queue."""
    pending = store.snapshot().pending
    oldest: dict[str, Job] = {}
    for one in sorted(pending, key=lambda job: job.seq):
        if one.queue not in oldest:
            job = store.job(one.job_id)
            if job is not None and job.state is JobState.QUEUED:
                oldest[one.queue] = job
    return oldest


def _fleet(store: ServiceStore) -> Iterator[Metric]:
    """Agents, and how many nodes each offers."""
    heard = GaugeMetricFamily(
        "strata_agent_last_sync_timestamp_seconds",
        "When an agent last spoke, as Unix time.",
        labels=["agent"],
    )
    nodes = GaugeMetricFamily("strata_nodes", "Nodes that agents offer.", labels=["agent"])
    offered = Counts(agent for agent, _ in store.nodes())
    for one in store.agents():
        heard.add_metric([one.name], one.heard_at.timestamp())
        nodes.add_metric([one.name], offered[one.name])
    yield from (heard, nodes)


def _training(store: ServiceStore) -> Iterator[Metric]:
    """The jobs that run: the newest line of each, and its current checkpoint."""
    running = store.latest_of_running()
    for name, help_text, value in _TRAINING:
        family = GaugeMetricFamily(f"strata_train_{name}", help_text, labels=["job_id"])
        for job, line in running:
            number = value(line)
            if number is not None:
                family.add_metric([job.id], number)
        yield family
    samples = CounterMetricFamily(
        "strata_train_samples", "Samples that the job has seen.", labels=["job_id"]
    )
    info = GaugeMetricFamily(
        "strata_job_info",
        "A running job: its name and queue, for joins by job_id.",
        labels=["job_id", "name", "queue"],
    )
    for job, line in running:
        samples.add_metric([job.id], line.progress.samples)
        info.add_metric([job.id, job.spec.name, job.spec.queue], 1)
    yield from (samples, info)
    current = {job.id: _current(store.checkpoints(job.id)) for job, _ in running}
    for name, help_text, of in _CHECKPOINT:
        family = GaugeMetricFamily(f"strata_checkpoint_{name}", help_text, labels=["job_id"])
        for job_id, checkpoint in current.items():
            if checkpoint is not None:
                family.add_metric([job_id], of(checkpoint))
        yield family


def _current(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    return next((one for one in checkpoints if not one.pruned), None)


def _metric(line: Measurement, name: str) -> float | None:
    return line.progress.metrics.get(name)


_TRAINING: tuple[tuple[str, str, Callable[[Measurement], float | None]], ...] = (
    ("stage_index", "The stage that trains, from 0.", lambda m: m.progress.stage_index),
    ("epoch", "Whole epochs done in the stage.", lambda m: m.progress.epoch),
    ("step", "Optimizer steps done by the job.", lambda m: m.progress.step),
    ("loss", "Mean loss since the last report.", lambda m: m.progress.loss),
    ("learning_rate", "Learning rate of the last step.", lambda m: m.progress.lr),
    (
        "samples_per_second",
        "Samples per second since the last report.",
        lambda m: m.progress.samples_per_second,
    ),
    ("step_seconds", "Mean time of a step, in seconds.", lambda m: m.progress.step_seconds),
    (
        "data_wait_seconds",
        "Part of a step that waited for data, in seconds.",
        lambda m: m.progress.data_wait_seconds,
    ),
    (
        "grad_norm",
        "Norm of the gradient at the last diagnosis.",
        lambda m: _metric(m, "grad_norm"),
    ),
)
_CHECKPOINT: tuple[tuple[str, str, Callable[[Checkpoint], float]], ...] = (
    ("bytes", "Size of the current checkpoint, in bytes.", lambda c: c.bytes),
    (
        "last_success_timestamp_seconds",
        "When the current checkpoint was written, as Unix time.",
        lambda c: c.written_at.timestamp(),
    ),
    ("save_seconds", "How long the current checkpoint took, in seconds.", lambda c: c.save_seconds),
    (
        "stall_seconds",
        "How long the optimizer waited for the current checkpoint, in seconds.",
        lambda c: c.stall_seconds,
    ),
)


class LoopCollector(Collector):
    """The control loop of this server."""

    def __init__(self, loop: ControlLoop) -> None:
        self._loop = loop

    def collect(self) -> Iterator[Metric]:
        """Read the loop's own figures."""
        figures = self._loop.figures
        leader = GaugeMetricFamily("strata_controller_leader", "1 while this server leads.")
        leader.add_metric([], float(self._loop.is_leader))
        seconds = GaugeMetricFamily(
            "strata_loop_seconds", "Time of each phase's last run, in seconds.", labels=["phase"]
        )
        errors = CounterMetricFamily(
            "strata_loop_errors", "Runs of a phase that failed.", labels=["phase"]
        )
        for phase, value in sorted(figures.seconds.items()):
            seconds.add_metric([phase], value)
            errors.add_metric([phase], figures.errors.get(phase, 0))
        scheduling = GaugeMetricFamily(
            "strata_scheduler_pass_seconds", "Time of the last scheduling pass, in seconds."
        )
        scheduling.add_metric([], figures.seconds.get("schedule", 0.0))
        granted = CounterMetricFamily(
            "strata_attempts", "Attempts that this server granted while it led."
        )
        granted.add_metric([], figures.granted)
        yield from (leader, seconds, errors, scheduling, granted)
