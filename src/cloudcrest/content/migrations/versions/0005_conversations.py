"""Conversations and their items."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "conversations",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "organization_id", "project_id", "key_id")),
        *(sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in ("created_at", "expires_at")),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("next_position", "item_count", "size_bytes")),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
    )
    op.create_index("ix_conversations_project_id", "conversations", ["project_id"])
    op.create_index("ix_conversations_expires_at", "conversations", ["expires_at"])
    op.create_table(
        "conversation_items",
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "position", name="pk_conversation_items"),
        sa.UniqueConstraint("conversation_id", "id", name="uq_conversation_items_conversation_id_id"),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.id"],
            name="fk_conversation_items_conversation_id_conversations",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    """Drops them."""
    op.drop_table("conversation_items")
    op.drop_table("conversations")
