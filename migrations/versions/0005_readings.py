"""What a job's curve comes to, and indexes for what is asked at every scrape and every sync."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
RELEASE = 1
INDEXES = (  # name, table, column, which rows
    ("ix_jobs_active", "jobs", "seq", "state IN ('running', 'stopping')"),
    ("ix_checkpoints_to_prune", "checkpoints", "id", "prune_asked AND NOT pruned"),
)


def upgrade() -> None:
    op.create_table(
        "readings",
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("line_id", sa.BigInteger(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("data_wait_seconds", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_readings_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["line_id"], ["measurements.id"], name=op.f("fk_readings_line_id_measurements")
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_readings")),
    )
    for name, table, column, rows in INDEXES:
        where = sa.text(rows)
        op.create_index(name, table, [column], sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for name, table, _, _ in reversed(INDEXES):
        op.drop_index(name, table)
    op.drop_table("readings")
