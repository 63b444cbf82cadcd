"""An index to find jobs that ended lately; whoever scrapes metrics asks for them."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
RELEASE = 1


def upgrade() -> None:
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"])


def downgrade() -> None:
    op.drop_index("ix_jobs_finished_at", "jobs")
