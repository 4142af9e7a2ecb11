"""Models say how they write verdicts, where they are made to moderate."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision: str | None = "0019"


def upgrade() -> None:
    """Null: it is no guard model."""
    op.add_column("models", sa.Column("moderation_format", sa.Text(), nullable=True))


def downgrade() -> None:
    """Forgotten."""
    op.drop_column("models", "moderation_format")
