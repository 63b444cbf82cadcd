"""What the fleet's leader tells Prometheus of jobs, capacity and training, read from the rows.

So replicas and restarts agree, and what would count up for ever in one process is right after a
restart too. Series of a job are there while it trains, and a while longer, for a job that is
shorter than the pause between two scrapes would never be seen.
"""

from collections import Counter as Counts  # prometheus_client has another Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from service.domain.job import FINAL_JOB_STATES, AttemptState, JobState
from service.domain.records import Agent, Attempt, Checkpoint, Measurement
from service.http.services import ServiceStore
from workers.contract.inventory import NodeSeen

UNITS = ("cpus", "gpus")  # as nodes and ranks name them

Places = Sequence[tuple[str, NodeSeen]]  # agent, node
Holdings = Sequence[tuple[str, Attempt]]  # queue, attempt

SERIES_GRACE = timedelta(seconds=300)  # several scrapes of any usual interval


def fleet_metrics(store: ServiceStore) -> Iterator[Metric]:
    """Everything, by a few short reads; raises Unreachable."""
    counts, agents, places = store.count_jobs(), store.agents(), store.nodes()
    queues = sorted({queue for queue, _ in counts})
    yield from _jobs(counts, queues)
    yield from _waiting(store)
    yield from _agents(agents, places)
    holdings = store.holdings()
    for unit in UNITS:
        yield _cluster(unit, agents, places, holdings)
        yield _allocated(unit, queues, holdings)
    orphans = GaugeMetricFamily(
        "strata_orphans",
        "Lost attempts whose processes are not proved gone; their nodes stay blocked.",
        labels=["kind"],
    )
    orphans.add_metric(["gang"], sum(one.state is AttemptState.LOST for _, one in holdings))
    yield orphans
    yield from _training(store)


def _jobs(counts: Mapping[tuple[str, JobState], int], queues: Sequence[str]) -> Iterator[Metric]:
    """The jobs, counted from their rows."""
    now = GaugeMetricFamily("strata_jobs", "Jobs by queue and state.", labels=["queue", "state"])
    submitted = CounterMetricFamily(
        "strata_jobs_submitted", "Jobs that were accepted.", labels=["queue"]
    )
    finished = CounterMetricFamily(
        "strata_jobs_finished", "Jobs that ended, by outcome.", labels=["outcome"]
    )
    for queue in queues:
        by_state = {state: counts.get((queue, state), 0) for state in JobState}
        for state, count in by_state.items():  # zeros too: a series that ends keeps its last value
            now.add_metric([queue, state], count)
        submitted.add_metric([queue], sum(by_state.values()))
    for outcome in sorted(FINAL_JOB_STATES):
        finished.add_metric([outcome], sum(counts.get((queue, outcome), 0) for queue in queues))
    yield from (now, submitted, finished)


def _waiting(store: ServiceStore) -> Iterator[Metric]:
    """Why queued jobs wait, and since when."""
    pending = GaugeMetricFamily(
        "strata_jobs_pending", "Queued jobs, by why they wait.", labels=["queue", "reason"]
    )
    oldest = GaugeMetricFamily(
        "strata_job_oldest_queued_timestamp_seconds",
        "When the job that has waited longest was submitted, as Unix time.",
        labels=["queue"],
    )
    since: dict[str, float] = {}
    for waiting in store.waiting():
        pending.add_metric([waiting.queue, waiting.reason], waiting.count)
        submitted_at = waiting.oldest_at.timestamp()
        since[waiting.queue] = min(submitted_at, since.get(waiting.queue, submitted_at))
    for queue, submitted_at in since.items():
        oldest.add_metric([queue], submitted_at)
    yield from (pending, oldest)


def _agents(agents: Sequence[Agent], places: Places) -> Iterator[Metric]:
    """When each agent spoke last, and what it offered then."""
    heard = GaugeMetricFamily(
        "strata_agent_last_sync_timestamp_seconds",
        "When an agent last spoke, as Unix time.",
        labels=["agent"],
    )
    nodes = GaugeMetricFamily("strata_nodes", "Nodes that agents offer.", labels=["agent", "state"])
    offered = Counts(name for name, _ in places)
    for agent in agents:
        heard.add_metric([agent.name], agent.heard_at.timestamp())
        ready, silent = (0, 1) if agent.is_silent else (1, 0)
        nodes.add_metric([agent.name, "ready"], ready * offered[agent.name])
        nodes.add_metric([agent.name, "silent"], silent * offered[agent.name])
    yield from (heard, nodes)


def _cluster(unit: str, agents: Sequence[Agent], places: Places, holdings: Holdings) -> Metric:
    """What agents offer, and how much of it is held."""
    cluster = GaugeMetricFamily(
        f"strata_cluster_{unit}",
        f"The {unit} of an agent's nodes; the states sum up to all of them.",
        labels=["agent", "state"],
    )
    total, taken = Counts[str](), Counts[str]()
    for name, node in places:
        total[name] += getattr(node, unit)
    for _, attempt in holdings:
        taken[attempt.agent] += _held(unit, attempt)
    for agent in agents:
        # What a lost attempt held may have left the cluster with its node.
        allocated = min(taken[agent.name], total[agent.name])
        left = total[agent.name] - allocated
        free, unreachable = (0, left) if agent.is_silent else (left, 0)
        cluster.add_metric([agent.name, "allocated"], allocated)
        cluster.add_metric([agent.name, "free"], free)
        cluster.add_metric([agent.name, "unreachable"], unreachable)
    return cluster


def _allocated(unit: str, queues: Sequence[str], holdings: Holdings) -> Metric:
    """How much the jobs of each queue hold."""
    allocated = GaugeMetricFamily(
        f"strata_queue_allocated_{unit}", f"The {unit} that a queue's jobs hold.", labels=["queue"]
    )
    held = Counts[str]()
    for queue, attempt in holdings:
        held[queue] += _held(unit, attempt)
    for queue in queues:
        allocated.add_metric([queue], held[queue])
    return allocated


def _held(unit: str, attempt: Attempt) -> int:
    return sum(getattr(rank, unit) for rank in attempt.ranks)


def _training(store: ServiceStore) -> Iterator[Metric]:
    """The jobs that train or ended just now: the newest line of each, and its checkpoint."""
    shown = store.latest_lines(store.now() - SERIES_GRACE)
    for name, help_text, value in _TRAINING:
        family = GaugeMetricFamily(f"strata_train_{name}", help_text, labels=["job_id"])
        for job, line in shown:
            number = value(line)
            if number is not None:
                family.add_metric([job.id], number)
        yield family
    size = GaugeMetricFamily("strata_train_world_size", "Workers of the job.", labels=["job_id"])
    samples = CounterMetricFamily(
        "strata_train_samples", "Samples that the job has seen.", labels=["job_id"]
    )
    info = GaugeMetricFamily(
        "strata_job_info",
        "A job that trains or has just ended: its name and queue, for joins by job_id.",
        labels=["job_id", "name", "queue"],
    )
    for job, line in shown:
        size.add_metric([job.id], job.spec.resources.workers)
        samples.add_metric([job.id], line.progress.samples)
        info.add_metric([job.id, job.spec.name, job.spec.queue], 1)
    yield from (size, samples, info)
    current = {job.id: store.current_checkpoint(job.id) for job, _ in shown}
    for name, help_text, of in _CHECKPOINT:
        family = GaugeMetricFamily(f"strata_checkpoint_{name}", help_text, labels=["job_id"])
        for job_id, checkpoint in current.items():
            if checkpoint is not None:
                family.add_metric([job_id], of(checkpoint))
        yield family


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
