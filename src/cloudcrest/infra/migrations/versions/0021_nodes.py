"""Nodes as their regions report them and operators set them, limits to racks' power, types of accelerators."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0021"
down_revision: str | None = "0020"


def upgrade() -> None:
    """Nodes come with the first report, types with the first start."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "nodes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("settings", JSONB(), nullable=False),
        sa.Column("status", JSONB(), nullable=False),
        sa.Column("status_sha256", sa.Text(), nullable=False),
        sa.Column("is_ready", sa.Boolean(), nullable=False),
        sa.Column("accelerator_type", sa.Text(), nullable=True),
        sa.Column("accelerators", sa.Integer(), nullable=False),
        sa.Column("allocated_milli", sa.BigInteger(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("changed_at", moment, nullable=False),
        sa.Column("gone_since", moment, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
        sa.UniqueConstraint("region", "node_id", name="uq_nodes_region_node_id"),
    )
    op.create_table(
        "racks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("power_limit_watts", sa.BigInteger(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_racks"),
        sa.UniqueConstraint("region", "zone", "name", name="uq_racks_region_zone_name"),
    )
    op.create_table(
        "accelerator_types",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("document", JSONB(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("known_sha256", sa.Text(), nullable=True),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_accelerator_types"),
    )


def downgrade() -> None:
    """Regions report again."""
    for name in ("accelerator_types", "racks", "nodes"):
        op.drop_table(name)
