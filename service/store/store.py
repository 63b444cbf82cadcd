"""The store: all that control asks of a database, on SQLite and PostgreSQL."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Row, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from service.domain.asks import Leadership
from service.domain.errors import NotLeader
from service.domain.job import OPEN_ATTEMPT_STATES
from service.domain.records import Agent, Attempt
from service.planner.snapshot import Node, Pending, Running, Share, Snapshot
from service.store.engine import database_now, reading, writing
from service.store.facts import FactWrites
from service.store.questions import Questions
from service.store.rows import agent_of, attempt_of, node_of
from service.store.tables import (
    EPOCH,
    agents,
    attempts,
    checkpoints,
    jobs,
    leaders,
    nodes,
)
from workers.contract.inventory import CheckpointPath, NodeSeen
from workers.contract.outcome import FailureKind

LEADER = "control"  # the lease whose holder grants and frees capacity
NODE_TO_BLAME = frozenset({FailureKind.START_TIMEOUT, FailureKind.HANG})
"""Failures that may be the nodes' own: the next attempt tries others first."""


class Store(Questions):
    """Implements every port of `service.control.ports` that is about what is stored."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._engine = engine

    @contextmanager
    def write(self, leader: Leadership | None = None) -> Iterator[FactWrites]:
        """One transaction; under `leader` it begins by locking that term."""
        with writing(self._engine) as connection:
            if leader is not None:
                term = select(leaders.c.epoch).where(
                    leaders.c.name == LEADER, leaders.c.epoch == leader.epoch
                )
                if connection.execute(term.with_for_update(read=True)).first() is None:
                    raise NotLeader(f"{leader.holder} led in epoch {leader.epoch}")
            yield FactWrites(connection)

    def now(self) -> datetime:
        """The database's clock, UTC."""
        with reading(self._engine) as connection:
            return database_now(connection)

    # --- the fleet

    def agents(self) -> list[Agent]:
        """All agents that ever spoke."""
        return list(map(agent_of, self._all(select(agents).order_by(agents.c.name))))

    def nodes(self) -> list[tuple[str, NodeSeen]]:
        """Every known node with its agent's name."""
        query = select(nodes).order_by(nodes.c.agent, nodes.c.node_id)
        return list(map(node_of, self._all(query)))

    def attempts_of_agent(self, agent: str) -> list[Attempt]:
        """The agent's attempts that are not GONE, oldest first."""
        query = select(attempts).where(attempts.c.agent == agent, text("attempts.state <> 'gone'"))
        return list(map(attempt_of, self._all(query.order_by(attempts.c.reserved_at))))

    def attempts_not_gone(self) -> list[Attempt]:
        """All attempts that still hold nodes."""
        query = select(attempts).where(text("attempts.state <> 'gone'"))
        return list(map(attempt_of, self._all(query.order_by(attempts.c.reserved_at))))

    def holdings(self) -> list[tuple[str, Attempt]]:
        """All attempts that still hold nodes, each with its job's queue."""
        query = (
            select(attempts, jobs.c.queue)
            .join(jobs, jobs.c.id == attempts.c.job_id)
            .where(text("attempts.state <> 'gone'"))
        )
        return [(row.queue, attempt_of(row)) for row in self._all(query)]

    def to_prune(self, agent: str, limit: int) -> list[CheckpointPath]:
        """Checkpoints to be deleted, of jobs whose newest attempt was this agent's."""
        query = (
            select(checkpoints.c.job_id, checkpoints.c.path)
            .join(jobs, jobs.c.id == checkpoints.c.job_id)
            .join(
                attempts,
                (attempts.c.job_id == jobs.c.id) & (attempts.c.number == jobs.c.attempt),
            )
            .where(attempts.c.agent == agent)
            .where(text("checkpoints.prune_asked AND NOT checkpoints.pruned"))
            .order_by(checkpoints.c.id)
            .limit(limit)
        )
        return [CheckpointPath(job_id=row.job_id, path=row.path) for row in self._all(query)]

    # --- the plan

    def snapshot(self) -> Snapshot:
        """The world for a plan, read in one transaction."""
        not_gone = text("attempts.state <> 'gone'")
        with reading(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            now = database_now(connection)
            places = connection.execute(
                select(nodes)
                .join(agents, agents.c.name == nodes.c.agent)
                .where(agents.c.is_silent.is_(False))
                .order_by(nodes.c.agent, nodes.c.node_id)
            ).all()
            held = connection.execute(
                select(attempts, jobs.c.max_duration_seconds)
                .join(jobs, jobs.c.id == attempts.c.job_id)
                .where(not_gone)
            ).all()
            waiting = connection.execute(
                select(
                    jobs,
                    attempts.c.ranks,
                    attempts.c.failure.label("last_failure"),
                    attempts.c.state.label("last_state"),
                )
                .outerjoin(
                    attempts,
                    (attempts.c.job_id == jobs.c.id) & (attempts.c.number == jobs.c.attempt),
                )
                .where(text("jobs.state = 'queued'"))
            ).all()
        # Sorted here: asked for rows in order, SQLite walks the whole table instead of the index.
        held = sorted(held, key=lambda row: (row.job_id, row.number))
        waiting = sorted(waiting, key=lambda row: row.seq)
        return Snapshot(
            now_ms=_milliseconds(now),
            nodes=tuple(Node(row.node_id, row.agent, row.cpus, row.gpus) for row in places),
            running=tuple(map(_running, held)),
            pending=tuple(map(_pending, waiting)),
        )

    def take_lead(self, name: str, holder: str, lease_seconds: float) -> Leadership | None:
        """Take, or renew, the lease `name`; None while another has it."""
        with writing(self._engine) as connection:
            row = connection.execute(
                select(leaders).where(leaders.c.name == name).with_for_update()
            ).first()
            now = database_now(connection)
            until = {"holder": holder, "expires_at": now + timedelta(seconds=lease_seconds)}
            if row is None:
                try:
                    with connection.begin_nested():
                        connection.execute(insert(leaders).values(name=name, epoch=1, **until))
                except IntegrityError:  # another server was as quick
                    return None
                return Leadership(holder, 1)
            is_live = now < row.expires_at
            if is_live and row.holder != holder:
                return None
            epoch = row.epoch if is_live else row.epoch + 1
            connection.execute(
                update(leaders).where(leaders.c.name == name).values(epoch=epoch, **until)
            )
            return Leadership(holder, epoch)

    def drop_lead(self, name: str, term: Leadership) -> None:
        """Give the lease up."""
        with writing(self._engine) as connection:
            connection.execute(
                update(leaders)
                .where(leaders.c.name == name, leaders.c.epoch == term.epoch)
                .where(leaders.c.holder == term.holder)
                .values(expires_at=EPOCH)
            )


def _milliseconds(at: datetime) -> int:
    return (at - EPOCH) // timedelta(milliseconds=1)


def _shares(ranks: Sequence[Mapping[str, Any]]) -> tuple[Share, ...]:
    return tuple(Share(rank["node_id"], rank["cpus"], rank["gpus"]) for rank in ranks)


def _running(row: Row[Any]) -> Running:
    ends_at_ms = None
    if row.max_duration_seconds is not None:
        begun_at = row.started_at or row.reserved_at
        ends_at_ms = _milliseconds(begun_at) + round(row.max_duration_seconds * 1000)
    return Running(row.job_id, row.number, _shares(row.ranks), ends_at_ms)


def _pending(row: Row[Any]) -> Pending:
    to_avoid = row.ranks if row.last_failure in NODE_TO_BLAME else ()
    return Pending(
        job_id=row.id,
        seq=row.seq,
        attempt=row.attempt,
        queue=row.queue,
        tenant=row.project,
        priority=row.priority,
        submitted_at_ms=_milliseconds(row.submitted_at),
        not_before_ms=_milliseconds(row.not_before) if row.not_before else None,
        workers=row.workers,
        cpus_per_worker=row.cpus_per_worker,
        gpus_per_worker=row.gpus_per_worker,
        avoid_nodes=frozenset(share.node_id for share in _shares(to_avoid or ())),
        is_draining=row.last_state in OPEN_ATTEMPT_STATES,
    )
