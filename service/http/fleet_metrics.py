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
from service.domain.records import Agent, Attempt, Checkpoint, Reading
from service.http.services import ServiceStore
from workers.contract.inventory import NodeSeen
from workers.contract.reports import StageKind

UNITS = ("cpus", "gpus")  # as nodes and ranks name them

Places = Sequence[tuple[str, NodeSeen]]  # agent, node
Holdings = Sequence[tuple[str, Attempt]]  # queue, attempt
Value = Callable[[Reading], float | None]  # None: the job has none, and so no series

RECONSTRUCTING = (StageKind.RBM, StageKind.DENOISING_AUTOENCODER)
"""Stages whose loss, as it is told, is the error of a reconstruction."""

SERIES_GRACE = timedelta(seconds=300)  # several scrapes of any usual interval


def fleet_metrics(store: ServiceStore, layers_max: int) -> Iterator[Metric]:
    """Everything, by a few short reads; raises Unreachable.

    Args:
        store: what is read.
        layers_max: of how many layers of each job the figures are told; 0: of none.
    """
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
    yield from _training(store, layers_max)


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


def _training(store: ServiceStore, layers_max: int) -> Iterator[Metric]:
    """The jobs that train or ended just now: what each has told, and its current checkpoint."""
    shown = store.readings(store.now() - SERIES_GRACE)
    for name, help_text, value in _TRAINING:
        yield _of_jobs(GaugeMetricFamily, f"train_{name}", help_text, value, shown)
    for name, help_text, value in _TRAINING_TOTALS:
        yield _of_jobs(CounterMetricFamily, f"train_{name}", help_text, value, shown)
    for name, help_text, of in _CHECKPOINT:
        yield _of_jobs(GaugeMetricFamily, f"checkpoint_{name}", help_text, _current(of), shown)
    info = GaugeMetricFamily(
        "strata_job_info",
        "A job that trains or has just ended: its name and queue, for joins by job_id.",
        labels=["job_id", "name", "queue"],
    )
    for reading in shown:
        info.add_metric([reading.job_id, reading.name, reading.queue], 1)
    yield info
    if layers_max > 0:
        yield from _layers(shown, layers_max)


def _of_jobs(
    family: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    help_text: str,
    value: Value,
    shown: Sequence[Reading],
) -> Metric:
    """One series for each job that has the value."""
    metric = family(f"strata_{name}", help_text, labels=["job_id"])
    for reading in shown:
        number = value(reading)
        if number is not None:
            metric.add_metric([reading.job_id], number)
    return metric


def _layers(shown: Sequence[Reading], layers_max: int) -> Iterator[Metric]:
    """What the last look into each net saw, of at most so many of its layers."""
    for kind, name, help_text in _LAYERS:
        metric = GaugeMetricFamily(
            f"strata_train_layer_{name}", help_text, labels=["job_id", "layer"]
        )
        for reading in shown:
            figures, start = reading.told.figures, f"{kind}."
            known = [figure.removeprefix(start) for figure in figures if figure.startswith(start)]
            for layer in _spread(known, layers_max):
                metric.add_metric([reading.job_id, layer], figures[start + layer])
        yield metric


def _spread(names: Sequence[str], count: int) -> Sequence[str]:
    """At most so many of the names, evenly taken, both ends among them where there is room."""
    if len(names) <= count:
        return names
    last = len(names) - 1
    return [names[round(k * last / max(1, count - 1))] for k in range(count)]


def _current(of: Callable[[Checkpoint], float]) -> Value:
    return lambda reading: None if reading.checkpoint is None else of(reading.checkpoint)


def _figure(name: str) -> Value:
    return lambda reading: reading.told.figures.get(name)


def _reconstruction_error(reading: Reading) -> float | None:
    return reading.told.progress.loss if reading.kind in RECONSTRUCTING else None


_TRAINING: tuple[tuple[str, str, Value], ...] = (
    ("stage_index", "The stage that trains, from 0.", lambda r: r.told.progress.stage_index),
    ("epoch", "Whole epochs done in the stage.", lambda r: r.told.progress.epoch),
    ("step", "Optimizer steps done by the job.", lambda r: r.told.progress.step),
    ("loss", "Mean loss since the last report.", lambda r: r.told.progress.loss),
    (
        "reconstruction_error",
        "Mean error of a layer's input rebuilt from its code, while a stage trains for that.",
        _reconstruction_error,
    ),
    ("learning_rate", "Learning rate of the last step.", lambda r: r.told.progress.lr),
    (
        "samples_per_second",
        "Samples per second since the last report.",
        lambda r: r.told.progress.samples_per_second,
    ),
    ("step_seconds", "Mean time of a step, in seconds.", lambda r: r.told.progress.step_seconds),
    (
        "memory_bytes",
        "Memory of rank 0, in bytes: the peak on its GPU, else of its process.",
        lambda r: r.told.progress.memory_bytes,
    ),
    (
        "mfu_ratio",
        "Share of the GPUs' peak that the model's arithmetic uses; only where the peak is known.",
        lambda r: r.told.progress.mfu,
    ),
    ("grad_norm", "Norm of the gradient at the last diagnosis.", _figure("grad_norm")),
    ("world_size", "Workers of the job.", lambda r: r.workers),
)
_TRAINING_TOTALS: tuple[tuple[str, str, Value], ...] = (
    ("samples", "Samples that the job has seen.", lambda r: r.told.progress.samples),
    (
        "data_wait_seconds",
        "Time that the job's steps waited for their data, in seconds.",
        lambda r: r.told.data_wait_seconds,
    ),
    (
        "nonfinite_steps",
        "Steps of the stage that were left out because a gradient was no number.",
        lambda r: r.told.num_nonfinite_steps,
    ),
)
_LAYERS = (  # a look's figure, the metric
    ("grad_norm", "grad_norm", "Norm of a layer's gradient at the last diagnosis."),
    ("dead", "dead_unit_ratio", "Share of a layer's units that were 0 for a whole batch."),
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
