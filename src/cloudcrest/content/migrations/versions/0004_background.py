"""Responses that run in the background."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"


def upgrade() -> None:
    """None did before."""
    op.add_column("responses", sa.Column("is_running", sa.Boolean(), nullable=False, server_default=sa.text("false")))


def downgrade() -> None:
    """Drops it."""
    op.drop_column("responses", "is_running")
