"""The newest order to trace steps, on the attempt that carries it out."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
RELEASE = 1
COLUMNS = ("profile_number", "profile_steps")


def upgrade() -> None:
    for name in COLUMNS:
        # The default lets a server of the release before write rows while both are up.
        column = sa.Column(name, sa.Integer, nullable=False, server_default=sa.text("0"))
        op.add_column("attempts", column)


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column("attempts", name)
