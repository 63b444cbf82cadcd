"""What a gang asks for, and how spans of time are written."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from workers.contract.wire import Written

WORKERS_MAX = 4096  # a gang beyond this size has never been tried
CPUS_PER_WORKER_MAX = 1024
GPUS_PER_WORKER_MAX = 1  # a worker is a rank, and trains on one device

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Resources(Written):
    """A gang: all of its workers at once, or none."""

    workers: Annotated[int, Field(ge=1, le=WORKERS_MAX)] = 1
    cpus_per_worker: Annotated[int, Field(ge=1, le=CPUS_PER_WORKER_MAX)] = 1
    gpus_per_worker: Annotated[
        int, Field(ge=0, json_schema_extra={"maximum": GPUS_PER_WORKER_MAX})
    ] = 0

    @field_validator("gpus_per_worker")
    @classmethod
    def _one_device_each(cls, gpus: int) -> int:
        if gpus > GPUS_PER_WORKER_MAX:
            raise ValueError("a worker trains on one GPU; ask for more workers")
        return gpus

    def __str__(self) -> str:
        """As in `2 workers x (1 CPU, 0 GPUs)`."""
        cpus, gpus = self.cpus_per_worker, self.gpus_per_worker
        return (
            f"{self.workers} worker{'s' * (self.workers != 1)} x "
            f"({cpus} CPU{'s' * (cpus != 1)}, {gpus} GPU{'s' * (gpus != 1)})"
        )


def span_seconds(value: object) -> object:
    """Turn `90s`, `15m`, `2h` or `7d` into seconds; leave everything else to the type's check."""
    if not isinstance(value, str):
        return value
    match = _SPAN.fullmatch(value.strip())
    if match is None:
        raise ValueError("write a span of time like 90s, 15m, 2h or 7d")
    return float(match[1]) * _UNIT_SECONDS[match[2]]


SpanSeconds = Annotated[float, BeforeValidator(span_seconds), Field(gt=0.0)]
