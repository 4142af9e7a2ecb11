"""Several deployments serve one public name, each with a weight."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision: str | None = "0011"


def upgrade() -> None:
    """A name is no longer one deployment's alone."""
    op.add_column("deployments", sa.Column("weight", sa.Integer(), nullable=False, server_default="100"))
    op.drop_constraint("uq_deployments_region_name", "deployments", type_="unique")
    op.create_index("ix_deployments_region_name", "deployments", ["region", "name"])


def downgrade() -> None:
    """Fails where a name has several deployments: delete all but one first."""
    op.drop_index("ix_deployments_region_name", "deployments")
    op.create_unique_constraint("uq_deployments_region_name", "deployments", ["region", "name"])
    op.drop_column("deployments", "weight")
