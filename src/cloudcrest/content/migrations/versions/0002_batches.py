"""Batches and their lines."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision: str | None = "0001"


def upgrade() -> None:
    """Creates the tables."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "batches",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "organization_id", "project_id", "key_id")),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("endpoint", "input_file_id", "status")),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("expires_at", moment, nullable=False),
        sa.Column("metadata", JSONB(none_as_null=True), nullable=True),
        sa.Column("errors", JSONB(none_as_null=True), nullable=True),
        sa.Column("output_lifetime_seconds", sa.Integer(), nullable=True),
        sa.Column("output_file_id", sa.Text(), nullable=True),
        sa.Column("error_file_id", sa.Text(), nullable=True),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("total", "completed", "failed")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("input_tokens", "cached_input_tokens")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("output_tokens", "reasoning_tokens")),
        *(sa.Column(name, moment, nullable=True) for name in ("in_progress_at", "finalizing_at")),
        *(sa.Column(name, moment, nullable=True) for name in ("cancelling_at", "ended_at")),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
    )
    op.create_index("ix_batches_project_id_id", "batches", ["project_id", "id"])
    unfinished = sa.text("ended_at is null")
    op.create_index("ix_batches_unfinished", "batches", ["id"], postgresql_where=unfinished)
    op.create_index("ix_batches_input_file_id", "batches", ["input_file_id"], postgresql_where=unfinished)
    op.create_table(
        "batch_lines",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("start_byte", sa.BigInteger(), nullable=False),
        sa.Column("end_byte", sa.BigInteger(), nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("error", JSONB(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("batch_id", "number", name="pk_batch_lines"),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name="fk_batch_lines_batch_id_batches", ondelete="CASCADE"
        ),
    )
    waiting = sa.text("state = 'waiting'")
    op.create_index("ix_batch_lines_waiting", "batch_lines", ["batch_id", "number"], postgresql_where=waiting)


def downgrade() -> None:
    """Drops them."""
    op.drop_table("batch_lines")
    op.drop_table("batches")
