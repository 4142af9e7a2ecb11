"""Projects may have what no engine honours dropped in place of refused."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision: str | None = "0016"


def upgrade() -> None:
    """Refused, as before."""
    op.add_column("projects", sa.Column("strict", sa.Boolean(), nullable=False, server_default="true"))


def downgrade() -> None:
    """All are strict again."""
    op.drop_column("projects", "strict")
