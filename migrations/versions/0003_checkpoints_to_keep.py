"""Which checkpoints stay whatever came after them: the pinned ones, and the best by a figure."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
RELEASE = 1


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("figure", sa.Float))
    # The default lets a server of the release before write rows while both are up.
    op.add_column(
        "checkpoints", sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false())
    )


def downgrade() -> None:
    op.drop_column("checkpoints", "pinned")
    op.drop_column("checkpoints", "figure")
