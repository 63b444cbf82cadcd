"""What the doors speak to; bootstrap puts it together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry

from service.control.files import Files
from service.control.fleet import Fleet
from service.control.ingest import Ingest
from service.control.jobs import Jobs
from service.control.loop import ControlLoop
from service.control.ports import Bus, FleetStore, PlanStore, TokenStore
from service.store.schema import SchemaState

if TYPE_CHECKING:  # a server without Redis need not import it
    from service.bus.redis_bus import RedisBus


class ServiceStore(FleetStore, PlanStore, TokenStore, Protocol):
    """The whole store."""


class SchemaCheck(Protocol):
    """Says whether the database answers and has our schema."""

    def __call__(self) -> SchemaState:
        """Look; raises Unreachable."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that a request may need."""

    store: ServiceStore
    bus: Bus
    jobs: Jobs
    files: Files
    ingest: Ingest
    fleet: Fleet
    loop: ControlLoop
    registry: CollectorRegistry  # of this server alone
    redis: "RedisBus | None"  # the bus, where it is one
    check_schema: SchemaCheck
    layers_max: int  # of how many layers of each job /metrics tells
