"""Models say how they write the calls of tools."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision: str | None = "0015"


def upgrade() -> None:
    """Null: it is not known to call any. Seeds bring what is known of theirs."""
    op.add_column("models", sa.Column("tool_format", sa.Text(), nullable=True))


def downgrade() -> None:
    """Forgotten."""
    op.drop_column("models", "tool_format")
