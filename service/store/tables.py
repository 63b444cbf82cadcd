"""The tables: what the service knows, and the indexes that its questions use."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)
from sqlalchemy.types import TypeDecorator

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts rows up by itself only in a column that is an INTEGER; elsewhere 64 bits are wanted.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")


class Instant(TypeDecorator[datetime]):
    """An aware UTC instant, stored as microseconds since 1970, so that SQL can compare it."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Count the microseconds."""
        return None if value is None else (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Count back."""
        return None if value is None else EPOCH + value * MICROSECOND


class Words(TypeDecorator[str]):
    """A sentence, of any length; NUL characters, which PostgreSQL can't hold, are replaced."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Put the Unicode replacement character where a NUL stands."""
        return None if value is None else value.replace("\0", "\N{REPLACEMENT CHARACTER}")


jobs = Table(
    "jobs",
    metadata,
    Column("seq", RowNumber, primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("key", String(200), nullable=False, unique=True),
    Column("spec_sha256", String(64), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("owner", String(100), nullable=False),
    Column("name", String(100), nullable=False),
    Column("project", String(100), nullable=False),
    Column("queue", String(100), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("workers", Integer, nullable=False),
    Column("cpus_per_worker", Integer, nullable=False),
    Column("gpus_per_worker", Integer, nullable=False),
    Column("max_duration_seconds", Float),
    Column("state", String(20), nullable=False),
    Column("reason", String(40), nullable=False),
    Column("reason_text", Words, nullable=False),
    Column("stop_reason", String(20)),
    Column("failure", String(20)),
    Column("attempt", Integer, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("submitted_at", Instant, nullable=False),
    Column("not_before", Instant),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    # The state stands literally in the index and in the queries: a bound parameter would defeat it.
    Index(
        "ix_jobs_pending",
        "priority",
        "seq",
        sqlite_where=text("state = 'queued'"),
        postgresql_where=text("state = 'queued'"),
    ),
    Index(
        "ix_jobs_active",
        "seq",
        sqlite_where=text("state IN ('running', 'stopping')"),
        postgresql_where=text("state IN ('running', 'stopping')"),
    ),
    Index("ix_jobs_queue_state", "queue", "state"),
    Index("ix_jobs_finished_at", "finished_at"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", String(36), ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("state", String(20), nullable=False),
    Column("agent", String(100), nullable=False),
    Column("ranks", JSON, nullable=False),
    Column("token_sha256", String(64), unique=True),
    Column("held", Integer, nullable=False),
    Column("reason", String(40), nullable=False),
    Column("reason_text", Words, nullable=False),
    Column("stop_reason", String(20)),
    Column("outcome", JSON),
    Column("failure", String(20)),
    Column("made_progress", Boolean, nullable=False),
    Column("reserved_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("heard_at", Instant),
    Column("stop_at", Instant),
    Column("ended_at", Instant),
    # The newest order to trace steps; 0: there was none.
    Column("profile_number", Integer, nullable=False, server_default=text("0")),
    Column("profile_steps", Integer, nullable=False, server_default=text("0")),
    Index(
        "ix_attempts_not_gone",
        "agent",
        "reserved_at",
        sqlite_where=text("state <> 'gone'"),
        postgresql_where=text("state <> 'gone'"),
    ),
)


def _of_attempt() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["job_id", "attempt"], ["attempts.job_id", "attempts.number"])


events = Table(
    "events",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("job_id", String(36), ForeignKey("jobs.id"), nullable=False),
    Column("attempt", Integer),
    Column("at", Instant, nullable=False),
    Column("actor", String(120), nullable=False),
    Column("move", String(20), nullable=False),
    Column("source", String(20)),
    Column("goal", String(20)),
    Column("reason", String(60), nullable=False),
    Column("message", Words, nullable=False),
    Index("ix_events_job_id_id", "job_id", "id"),
)

stages = Table(
    "stages",
    metadata,
    Column("job_id", String(36), ForeignKey("jobs.id"), primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("name", String(60), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("epochs", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("loss_first", Float),
    Column("loss_last", Float),
    Column("seconds", Float),
    Column("metrics", JSON, nullable=False),
)

measurements = Table(
    "measurements",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("job_id", String(36), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", Instant, nullable=False),
    Column("progress", JSON, nullable=False),
    _of_attempt(),
    Index("ix_measurements_job_id_id", "job_id", "id"),
)

# What a job's lines come to, kept up as they are told: the whole curve is not read at each scrape.
readings = Table(
    "readings",
    metadata,
    Column("job_id", String(36), ForeignKey("jobs.id"), primary_key=True),
    Column("line_id", BigInteger, ForeignKey("measurements.id"), nullable=False),
    Column("figures", JSON, nullable=False),
    Column("data_wait_seconds", Float, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("job_id", String(36), ForeignKey("jobs.id"), nullable=False),
    Column("path", String(300), nullable=False, unique=True),
    Column("manifest_sha256", String(64), nullable=False),
    Column("stage_index", Integer, nullable=False),
    Column("stage", String(60), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("files", Integer, nullable=False),
    Column("save_seconds", Float, nullable=False),
    Column("stall_seconds", Float, nullable=False),
    Column("written_at", Instant, nullable=False),
    Column("figure", Float),
    Column("pinned", Boolean, nullable=False, server_default=false()),
    Column("prune_asked", Boolean, nullable=False),
    Column("pruned", Boolean, nullable=False),
    Index("ix_checkpoints_job_id_id", "job_id", "id"),
    Index(
        "ix_checkpoints_to_prune",
        "id",
        sqlite_where=text("prune_asked AND NOT pruned"),
        postgresql_where=text("prune_asked AND NOT pruned"),
    ),
)

agents = Table(
    "agents",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("cluster_id", String(100), nullable=False),
    Column("boot_id", String(36), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("heard_at", Instant, nullable=False),
    Column("is_silent", Boolean, nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    Column("agent", String(100), ForeignKey("agents.name"), primary_key=True),
    Column("node_id", String(100), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("cpus", Integer, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("gpu_type", String(100)),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("labels", JSON, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("is_agent", Boolean, nullable=False),
    Column("role", String(20), nullable=False),
    Column("project", String(100)),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("revoked_at", Instant),
)

leaders = Table(
    "leaders",
    metadata,
    Column("name", String(60), primary_key=True),
    Column("holder", String(100), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", Instant, nullable=False),
)

schema_release = Table(
    "schema_release",
    metadata,
    Column("number", Integer, primary_key=True),  # the release that the newest migration belongs to
)
