"""Writes of what gangs and agents tell: facts under the fence, the fleet, tokens."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from service.domain.errors import Conflict, Stale
from service.domain.job import FINAL_JOB_STATES, AttemptState
from service.domain.records import Attempt, Token
from service.domain.told import told_after
from service.store.moves import MoveWrites
from service.store.rows import TOLD_COLUMNS, TOLD_FROM, told_of
from service.store.tables import (
    agents,
    attempts,
    checkpoints,
    jobs,
    measurements,
    nodes,
    readings,
    stages,
    tokens,
)
from workers.contract.checkpoint_spec import BetterIs
from workers.contract.inventory import CheckpointPath, NodeSeen
from workers.contract.reports import CheckpointWritten, Progress, StageEnded, StageStarted
from workers.contract.wire import JobId

AGENT_LEASE = timedelta(seconds=45)  # an agent's name is its cluster's for so long after its word


class FactWrites(MoveWrites):
    """Everything that can be done in one transaction."""

    def hold_facts(self, attempt: Attempt, up_to: int) -> None:
        """Move the watermark, if the attempt is the job's newest and not GONE."""
        newest = self._lock(attempt.job_id)  # no newer one can be reserved until we commit
        done = self._connection.execute(
            update(attempts)
            .where(attempts.c.job_id == attempt.job_id, attempts.c.number == attempt.number)
            .where(attempts.c.held == attempt.held, attempts.c.state != AttemptState.GONE)
            .values(held=up_to, heard_at=self.now())
        )
        if done.rowcount != 1 or attempt.number != newest:
            raise Stale(f"attempt {attempt.number} of {attempt.job_id} moved on")

    def mark_progress(self, job_id: JobId, attempt: int) -> None:
        """Record that the attempt wrote a new checkpoint."""
        self._connection.execute(
            update(attempts)
            .where(attempts.c.job_id == job_id, attempts.c.number == attempt)
            .values(made_progress=True)
        )

    def add_stage(self, job_id: JobId, attempt: int, fact: StageStarted) -> None:
        """Record that a stage began, or goes on."""
        here = (stages.c.job_id == job_id) & (stages.c.index == fact.index)
        done = self._connection.execute(
            update(stages).where(here, stages.c.seconds.is_(None)).values(attempt=attempt)
        )
        if done.rowcount == 0 and not self._connection.execute(select(stages).where(here)).first():
            self._connection.execute(
                insert(stages).values(
                    job_id=job_id,
                    index=fact.index,
                    count=fact.count,
                    name=fact.name,
                    kind=fact.kind,
                    epochs=fact.epochs,
                    attempt=attempt,
                    metrics={},
                )
            )

    def end_stage(self, job_id: JobId, attempt: int, fact: StageEnded) -> None:
        """Record a stage's figures."""
        figures = {
            "attempt": attempt,
            "epochs": fact.epochs,
            "loss_first": fact.loss_first,
            "loss_last": fact.loss_last,
            "seconds": fact.seconds,
            "metrics": fact.metrics,
        }
        done = self._connection.execute(
            update(stages)
            .where(stages.c.job_id == job_id, stages.c.index == fact.index)
            .values(figures)
        )
        if done.rowcount == 0:
            self._connection.execute(
                insert(stages).values(
                    job_id=job_id,
                    index=fact.index,
                    count=fact.index + 1,
                    name=fact.name,
                    kind=fact.kind,
                    **figures,
                )
            )

    def add_measurements(
        self, job_id: JobId, attempt: int, lines: Sequence[tuple[datetime, Progress]]
    ) -> None:
        """Add lines to the job's curves, and keep what all of them come to."""
        if not lines:
            return
        before = self._connection.execute(
            select(*TOLD_COLUMNS).select_from(TOLD_FROM).where(readings.c.job_id == job_id)
        ).first()
        told = told_of(before) if before is not None else None
        rows = []
        for at, line in lines:
            told = told_after(told, attempt, line)
            progress = line.model_dump(mode="json")
            rows.append({"job_id": job_id, "attempt": attempt, "at": at, "progress": progress})
        self._connection.execute(insert(measurements), rows)
        newest = select(func.max(measurements.c.id)).where(measurements.c.job_id == job_id)
        assert told is not None
        values = {
            "line_id": newest.scalar_subquery(),
            "figures": dict(told.figures),
            "data_wait_seconds": told.data_wait_seconds,
        }
        if before is None:
            self._connection.execute(insert(readings).values(job_id=job_id, **values))
        else:
            here = readings.c.job_id == job_id
            self._connection.execute(update(readings).where(here).values(values))

    def add_checkpoint(self, job_id: JobId, fact: CheckpointWritten, at: datetime) -> bool:
        """Record a checkpoint; False where it is there."""
        ref = fact.ref
        there = select(checkpoints.c.id).where(checkpoints.c.path == ref.path)
        if self._connection.execute(there).first():
            return False
        self._connection.execute(
            insert(checkpoints).values(
                job_id=job_id,
                path=ref.path,
                manifest_sha256=ref.manifest_sha256,
                stage_index=ref.stage_index,
                stage=ref.stage,
                step=ref.step,
                attempt=ref.attempt,
                bytes=fact.bytes,
                files=fact.files,
                save_seconds=fact.save_seconds,
                stall_seconds=fact.stall_seconds,
                written_at=at,
                figure=fact.figure,
                pinned=False,
                prune_asked=False,
                pruned=False,
            )
        )
        return True

    def ask_prune(self, job_id: JobId, keep_last: int, better: BetterIs | None = None) -> None:
        """Ask for the deletion of all but the newest, the pinned and the best ones."""
        kept = (
            select(checkpoints.c.id)
            .where(checkpoints.c.job_id == job_id)
            .order_by(checkpoints.c.id.desc())  # not by step: after a fall-back that goes back
            .limit(keep_last)
        )
        doomed = update(checkpoints).where(
            checkpoints.c.job_id == job_id, checkpoints.c.id.not_in(kept), ~checkpoints.c.pinned
        )
        if better is not None:
            figure = checkpoints.c.figure
            best = (
                select(checkpoints.c.id)
                .where(checkpoints.c.job_id == job_id, ~checkpoints.c.prune_asked)
                .where(figure.is_not(None))
                .order_by(figure if better == "min" else figure.desc(), checkpoints.c.id)
                .limit(1)
            )
            doomed = doomed.where(checkpoints.c.id.not_in(best))
        self._connection.execute(doomed.values(prune_asked=True))

    def ask_profile(self, attempt: Attempt, steps: int) -> None:
        """Order the attempt's gang to trace its next steps."""
        done = self._connection.execute(
            update(attempts)
            .where(attempts.c.job_id == attempt.job_id, attempts.c.number == attempt.number)
            .where(attempts.c.state == attempt.state)
            .values(profile_number=attempts.c.profile_number + 1, profile_steps=steps)
        )
        if done.rowcount != 1:
            raise Stale(f"attempt {attempt.number} of {attempt.job_id} is not as it was seen")

    def pin(self, job_id: JobId, path: str, pinned: bool) -> bool:
        """Keep a checkpoint whatever comes, or no more; False where it is on its way out."""
        done = self._connection.execute(
            update(checkpoints)
            .where(checkpoints.c.job_id == job_id, checkpoints.c.path == path)
            .where(~checkpoints.c.prune_asked)
            .values(pinned=pinned)
        )
        return done.rowcount == 1

    def heir(self, path: str) -> JobId | None:
        """A job that begins from this checkpoint and is not final yet, or None."""
        query = (
            select(jobs.c.id)
            .where(jobs.c.state.not_in(sorted(FINAL_JOB_STATES)))
            .where(jobs.c.spec["init_from"]["path"].as_string() == path)
            .order_by(jobs.c.seq)
            .limit(1)
        )
        found: JobId | None = self._connection.scalar(query)
        return found

    def mark_pruned(self, agent: str, paths: Sequence[CheckpointPath]) -> None:
        """Record that these checkpoints are deleted."""
        was_its = exists().where(
            attempts.c.job_id == checkpoints.c.job_id, attempts.c.agent == agent
        )
        self._connection.execute(
            update(checkpoints)
            .where(checkpoints.c.path.in_([one.path for one in paths]), checkpoints.c.prune_asked)
            .where(was_its)
            .values(pruned=True)
        )

    def see_agent(self, name: str, cluster_id: str, boot_id: str, seen: Sequence[NodeSeen]) -> int:
        """Record an agent's word and its nodes; return a new revision."""
        now = self.now()
        row = self._connection.execute(
            select(agents).where(agents.c.name == name).with_for_update()
        ).first()
        word = {"cluster_id": cluster_id, "boot_id": boot_id, "heard_at": now, "is_silent": False}
        if row is None:
            try:
                with self._connection.begin_nested():
                    self._connection.execute(insert(agents).values(name=name, revision=1, **word))
            except IntegrityError:
                raise Stale(f"agent {name!r} spoke twice at the same moment") from None
            self._set_nodes(name, seen)
            return 1
        if row.cluster_id == cluster_id and boot_id < row.boot_id:
            raise Conflict(f"a newer agent {name!r} of this cluster has taken over")
        if row.cluster_id != cluster_id and now < row.heard_at + AGENT_LEASE:
            raise Conflict(
                f"another cluster's agent is called {name!r}",
                remedy="give each cluster's agent a name of its own",
            )
        self._connection.execute(
            update(agents)
            .where(agents.c.name == name)
            .values(revision=agents.c.revision + 1, **word)
        )
        self._set_nodes(name, seen)
        return int(row.revision) + 1

    def _set_nodes(self, agent: str, seen: Sequence[NodeSeen]) -> None:
        rows = [{"agent": agent, **node.model_dump(mode="json")} for node in seen]
        known = self._connection.execute(
            select(nodes).where(nodes.c.agent == agent).order_by(nodes.c.node_id)
        )
        if [dict(row._mapping) for row in known] == sorted(rows, key=lambda r: r["node_id"]):
            return  # most syncs change nothing: no write then
        self._connection.execute(delete(nodes).where(nodes.c.agent == agent))
        if rows:
            self._connection.execute(insert(nodes), rows)

    def set_agent_silent(self, name: str) -> bool:
        """Make an agent's nodes unschedulable."""
        done = self._connection.execute(
            update(agents)
            .where(agents.c.name == name, agents.c.is_silent.is_(False))
            .values(is_silent=True)
        )
        return done.rowcount == 1

    def add_token(self, token: Token) -> None:
        """Record a token."""
        self._connection.execute(
            insert(tokens).values({column.name: getattr(token, column.name) for column in tokens.c})
        )

    def revoke_token(self, name: str) -> int:
        """Revoke every token of that name."""
        return self._connection.execute(
            update(tokens)
            .where(tokens.c.name == name, tokens.c.revoked_at.is_(None))
            .values(revoked_at=self.now())
        ).rowcount
