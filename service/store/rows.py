"""Rows to records, and back where that is more than naming columns."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row

from service.domain.job import AttemptState, JobState
from service.domain.records import (
    Agent,
    Attempt,
    Checkpoint,
    Event,
    Job,
    Measurement,
    RankShare,
    Reason,
    Role,
    Stage,
    Token,
)
from service.domain.spec import JobSpec
from service.domain.told import Told
from service.store.tables import measurements, readings
from workers.contract.inventory import NodeSeen
from workers.contract.outcome import FailureKind, Outcome, StopReason
from workers.contract.reports import CheckpointRef, ProfileOrder, Progress, StageKind


def spec_json(spec: JobSpec) -> dict[str, Any]:
    """The spec as it is stored: with every default written out."""
    return spec.model_dump(mode="json")


def spec_sha256(spec: JobSpec) -> str:
    """The same for two specs that mean the same."""
    return hashlib.sha256(json.dumps(spec_json(spec), sort_keys=True).encode()).hexdigest()


def job_of(row: Row[Any]) -> Job:
    """A row of `jobs`."""
    return Job(
        id=row.id,
        seq=row.seq,
        key=row.key,
        owner=row.owner,
        spec=JobSpec.model_validate(row.spec),
        state=JobState(row.state),
        reason=Reason(row.reason),
        reason_text=row.reason_text,
        stop_reason=StopReason(row.stop_reason) if row.stop_reason else None,
        failure=FailureKind(row.failure) if row.failure else None,
        attempt=row.attempt,
        submitted_at=row.submitted_at,
        not_before=row.not_before,
        started_at=row.started_at,
        finished_at=row.finished_at,
        metrics=_figures(row.metrics),
    )


def _figures(stored: Mapping[str, float | str]) -> dict[str, float]:
    """Metrics as numbers: what is not finite was stored as a string."""
    return {name: float(value) for name, value in stored.items()}


def attempt_of(row: Row[Any]) -> Attempt:
    """A row of `attempts`."""
    return Attempt(
        job_id=row.job_id,
        number=row.number,
        state=AttemptState(row.state),
        agent=row.agent,
        ranks=tuple(RankShare(**rank) for rank in row.ranks),
        token_sha256=row.token_sha256,
        held=row.held,
        reason=Reason(row.reason),
        reason_text=row.reason_text,
        stop_reason=StopReason(row.stop_reason) if row.stop_reason else None,
        outcome=Outcome.model_validate(row.outcome) if row.outcome else None,
        failure=FailureKind(row.failure) if row.failure else None,
        made_progress=row.made_progress,
        reserved_at=row.reserved_at,
        started_at=row.started_at,
        heard_at=row.heard_at,
        stop_at=row.stop_at,
        ended_at=row.ended_at,
        profile=_profile_of(row),
    )


def _profile_of(row: Row[Any]) -> ProfileOrder | None:
    number: int = row.profile_number
    return ProfileOrder(number=number, steps=row.profile_steps) if number > 0 else None


def event_of(row: Row[Any]) -> Event:
    """A row of `events`."""
    return Event(**row._mapping)


def stage_of(row: Row[Any]) -> Stage:
    """A row of `stages`."""
    return Stage(**{**row._mapping, "kind": StageKind(row.kind), "metrics": _figures(row.metrics)})


def measurement_of(row: Row[Any]) -> Measurement:
    """A row of `measurements`."""
    return Measurement(
        id=row.id,
        job_id=row.job_id,
        attempt=row.attempt,
        at=row.at,
        progress=Progress.model_validate(row.progress),
    )


TOLD_FROM = readings.join(measurements, measurements.c.id == readings.c.line_id)
TOLD_COLUMNS: Sequence[ColumnElement[Any]] = (
    readings.c.figures,
    readings.c.data_wait_seconds,
    measurements.c.attempt,
    measurements.c.progress,
)
"""The columns of it that `told_of` needs."""


def told_of(row: Row[Any]) -> Told:
    """A row of `readings` with its line."""
    return Told(
        attempt=row.attempt,
        progress=Progress.model_validate(row.progress),
        figures=_figures(row.figures),
        data_wait_seconds=row.data_wait_seconds,
    )


def checkpoint_of(row: Row[Any]) -> Checkpoint:
    """A row of `checkpoints`."""
    return Checkpoint(
        job_id=row.job_id,
        ref=CheckpointRef(
            path=row.path,
            manifest_sha256=row.manifest_sha256,
            stage_index=row.stage_index,
            stage=row.stage,
            step=row.step,
            attempt=row.attempt,
        ),
        bytes=row.bytes,
        files=row.files,
        save_seconds=row.save_seconds,
        stall_seconds=row.stall_seconds,
        written_at=row.written_at,
        figure=row.figure,
        pinned=row.pinned,
        prune_asked=row.prune_asked,
        pruned=row.pruned,
    )


def agent_of(row: Row[Any]) -> Agent:
    """A row of `agents`."""
    return Agent(
        name=row.name,
        cluster_id=row.cluster_id,
        boot_id=row.boot_id,
        heard_at=row.heard_at,
        is_silent=row.is_silent,
    )


def node_of(row: Row[Any]) -> tuple[str, NodeSeen]:
    """A row of `nodes`, with its agent's name."""
    return row.agent, NodeSeen.model_validate({**row._mapping})


def token_of(row: Row[Any]) -> Token:
    """A row of `tokens`."""
    return Token(**{**row._mapping, "role": Role(row.role)})
