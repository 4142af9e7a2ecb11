"""Where a deployment's replicas run, and where each does."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0024"
down_revision: str | None = "0023"


def upgrade() -> None:
    """Those that are there run wherever there is room."""
    op.add_column("deployments", sa.Column("placement", JSONB(), nullable=False, server_default="{}"))
    op.add_column("replica_status", sa.Column("node_id", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    """Which nodes they were wanted on is forgotten."""
    op.drop_column("replica_status", "node_id")
    op.drop_column("deployments", "placement")
