"""Projects say what is done about what is found in requests and answers, and organizations the least of it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0019"
down_revision: str | None = "0018"
_TABLES = ("organizations", "projects")


def upgrade() -> None:
    """Off at first."""
    for table in _TABLES:
        op.add_column(table, sa.Column("guardrails", JSONB(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """Without them, nothing is looked at."""
    for table in _TABLES:
        op.drop_column(table, "guardrails")
