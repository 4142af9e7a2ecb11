"""Models can limit how fast their load grows."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision: str | None = "0012"


def upgrade() -> None:
    """Both are null: no limit."""
    op.add_column("deployments", sa.Column("growth_percent_per_minute", sa.Integer(), nullable=True))
    op.add_column("deployments", sa.Column("growth_floor_requests_per_minute", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """The limits are forgotten."""
    op.drop_column("deployments", "growth_floor_requests_per_minute")
    op.drop_column("deployments", "growth_percent_per_minute")
