"""Tables of hard budgets, and what usage events say of them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0014"
down_revision: str | None = "0013"

_AMOUNT = sa.Numeric(38, 18)
_UNITS = sa.Numeric(38, 0)
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Creates the tables and adds the columns."""
    op.create_table(
        "budgets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", _AMOUNT, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_budgets"),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["accounts.organization_id"], name="fk_budgets_organization_id_accounts"
        ),
    )
    op.create_index("ix_budgets_organization_id_id", "budgets", ["organization_id", "id"])
    op.create_table(
        "budget_scopes",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("budget_id", sa.Text(), nullable=False),
        sa.Column("charged_units", _UNITS, nullable=False),
        sa.Column("recalled_until", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("scope", name="pk_budget_scopes"),
    )
    op.create_index("ix_budget_scopes_recalled_until", "budget_scopes", ["recalled_until"])
    op.create_table(
        "budget_grants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("units", _UNITS, nullable=False),
        sa.Column("drawn_units", _UNITS, nullable=False),
        sa.Column("ends_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_budget_grants"),
    )
    op.create_index("ix_budget_grants_scope", "budget_grants", ["scope"])
    op.create_index("ix_budget_grants_region_holder", "budget_grants", ["region", "holder"])
    op.add_column("usage_events", sa.Column("grants", JSONB(none_as_null=True), nullable=True))
    op.add_column("usage_events", sa.Column("rate_card_id", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drops them."""
    op.drop_column("usage_events", "rate_card_id")
    op.drop_column("usage_events", "grants")
    for table in ("budget_grants", "budget_scopes", "budgets"):
        op.drop_table(table)
