"""Jobs, secrets of projects, and what organizations may run."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0023"
down_revision: str | None = "0022"


def upgrade() -> None:
    """Nothing ran before."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("secrets", JSONB(), nullable=False),
        sa.Column("document", JSONB(), nullable=False),
        sa.Column("report", JSONB(none_as_null=True), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
    )
    op.create_index("ix_jobs_project_id", "jobs", ["project_id", "id"])
    op.create_index("ix_jobs_unfinished", "jobs", ["project_id"], postgresql_where=sa.text("ended_at is null"))
    op.create_index("ix_jobs_ended_at", "jobs", ["ended_at"])
    op.create_table(
        "project_secrets",
        sa.Column("project_id", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "compute_policies",
        sa.Column("organization_id", sa.Text(), primary_key=True),
        sa.Column("is_trusted", sa.Boolean(), nullable=False),
        sa.Column("may_run_high", sa.Boolean(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    """All of them are forgotten."""
    op.drop_table("compute_policies")
    op.drop_table("project_secrets")
    op.drop_table("jobs")
