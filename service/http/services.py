"""What the doors speak to; bootstrap puts it together."""

from dataclasses import dataclass
from typing import Protocol

from service.control.files import Files
from service.control.fleet import Fleet
from service.control.ingest import Ingest
from service.control.jobs import Jobs
from service.control.loop import ControlLoop
from service.control.ports import Bus, FleetStore, PlanStore, TokenStore
from service.store.schema import SchemaState


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
    check_schema: SchemaCheck
