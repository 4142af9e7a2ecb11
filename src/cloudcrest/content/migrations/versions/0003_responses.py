"""Stored responses."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "responses",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "organization_id", "project_id", "key_id")),
        sa.Column("previous_response_id", sa.Text(), nullable=True),
        *(sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in ("created_at", "expires_at")),
        *(sa.Column(name, sa.LargeBinary(), nullable=False) for name in ("items", "document")),
        sa.PrimaryKeyConstraint("id", name="pk_responses"),
    )
    op.create_index("ix_responses_project_id_id", "responses", ["project_id", "id"])
    op.create_index("ix_responses_expires_at", "responses", ["expires_at"])


def downgrade() -> None:
    """Drops it."""
    op.drop_table("responses")
