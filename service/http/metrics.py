"""What Prometheus scrapes of a server: what it counted itself, and, of its leader, the fleet."""

import logging
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.domain.errors import Unreachable
from service.http.fleet_metrics import fleet_metrics
from service.http.services import Services

log = logging.getLogger(__name__)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each one

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


def register(services: Services) -> HttpMetrics:
    """Put everything that is not there yet into the server's registry."""
    registry = services.registry
    build = Gauge("strata_build_info", "The running release.", ["version"], registry=registry)
    build.labels(version("strata")).set(1)
    registry.register(ServerCollector(services))
    registry.register(FleetCollector(services))
    return HttpMetrics(registry)


class ServerCollector(Collector):
    """How this server is connected to the others: leader or not, and what it reaches."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """Look at it for this scrape."""
        leader = GaugeMetricFamily("strata_controller_leader", "1 while this server leads.")
        leader.add_metric([], float(self._services.loop.is_leader))
        yield leader
        yield from self._bus()
        yield from self._database()

    def _bus(self) -> Iterator[Metric]:
        bus = self._services.redis
        if bus is None:
            return
        up = GaugeMetricFamily("strata_redis_up", "1 while Redis carries wake-ups.")
        up.add_metric([], float(bus.trouble is None))
        errors = CounterMetricFamily(
            "strata_redis_errors", "Commands to Redis that failed, and beats that were not heard."
        )
        errors.add_metric([], bus.errors)
        yield from (up, errors)

    def _database(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("strata_database_up", "1 while the database answers.")
        schema = GaugeMetricFamily(
            "strata_schema_revision_info", "The database's schema.", labels=["revision"]
        )
        try:
            schema.add_metric([self._services.check_schema().current or "none"], 1.0)
        except Unreachable:
            up.add_metric([], 0.0)
        else:
            up.add_metric([], 1.0)
        yield from (up, schema)


class FleetCollector(Collector):
    """What the database knows of all; from the leader only, so that replicas can be summed up."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """Read it once for this scrape; while the database is away, the rest is still scraped."""
        if not self._services.loop.is_leader:
            return
        try:
            found = list(fleet_metrics(self._services.store, self._services.layers_max))
        except Unreachable as refusal:
            log.warning("metrics without the fleet's: %s", refusal)
            return
        yield from found
