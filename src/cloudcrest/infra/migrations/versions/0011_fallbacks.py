"""Projects name the models that answer in place of others."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision: str | None = "0010"


def upgrade() -> None:
    """None at first."""
    op.add_column("projects", sa.Column("fallbacks", JSONB(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """Without them, a model that cannot answer is an error again."""
    op.drop_column("projects", "fallbacks")
