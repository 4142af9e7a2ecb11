"""Tables of infra: the feed's documents, kept answers of idempotent requests, applied job-queue migrations."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Creates the tables."""
    op.execute(sa.schema.CreateSequence(sa.Sequence("published_documents_revision")))
    op.create_table(
        "published_documents",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("region", sa.Text(), nullable=True),
        sa.Column("body", JSONB(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("kind", "id", name="pk_published_documents"),
    )
    op.create_index("ix_published_documents_revision", "published_documents", ["revision"], unique=True)
    op.create_table(
        "idempotent_requests",
        sa.Column("caller_sha256", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("took_effect", sa.Boolean(), nullable=False),
        sa.Column("sealed_response", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("caller_sha256", "key", name="pk_idempotent_requests"),
    )
    op.create_index("ix_idempotent_requests_started_at", "idempotent_requests", ["started_at"])
    op.create_table(
        "job_queue_migrations",
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_job_queue_migrations"),
    )


def downgrade() -> None:
    """Drops the tables."""
    op.drop_table("job_queue_migrations")
    op.drop_table("idempotent_requests")
    op.drop_table("published_documents")
    op.execute(sa.schema.DropSequence(sa.Sequence("published_documents_revision")))
