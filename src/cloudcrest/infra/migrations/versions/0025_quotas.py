"""Quotas of accelerators and CPUs."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision: str | None = "0024"


def upgrade() -> None:
    """Nobody had one before: everyone borrowed."""
    op.create_table(
        "compute_quotas",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("guaranteed_milli", sa.BigInteger(), nullable=False),
        sa.Column("ceiling_milli", sa.BigInteger(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index(
        "ix_compute_quotas_owner",
        "compute_quotas",
        ["region", "organization_id", "project_id", "resource"],
        unique=True,
    )


def downgrade() -> None:
    """All of them are forgotten."""
    op.drop_table("compute_quotas")
