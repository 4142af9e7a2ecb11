"""Tables of billing."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision: str | None = "0005"

_AMOUNT = sa.Numeric(38, 18)
_PRICE = sa.Numeric(38, 12)
_TIME = sa.DateTime(timezone=True)

_KEEP_RATE_CARDS = """
create function keep_rate_cards_in_force() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' and old.valid_from > clock_timestamp() then
        return old;
    end if;
    raise exception 'a rate card that was in force is never changed: % refused', tg_op
        using errcode = 'restrict_violation';
end
$$
"""


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "rate_cards",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("valid_from", _TIME, nullable=False),
        sa.Column("input_price_per_million_tokens", _PRICE, nullable=False),
        sa.Column("cached_input_price_per_million_tokens", _PRICE, nullable=False),
        sa.Column("output_price_per_million_tokens", _PRICE, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_rate_cards"),
        sa.UniqueConstraint("model", "currency", "valid_from", name="uq_rate_cards_model_currency_valid_from"),
    )
    op.create_table(
        "accounts",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("balance", _AMOUNT, nullable=False),
        sa.Column("is_suspended", sa.Boolean(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", name="pk_accounts"),
    )
    _create_ledger()
    op.create_table(
        "unpriced_usage",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_unpriced_usage"),
    )
    op.create_index("ix_unpriced_usage_model_event_id", "unpriced_usage", ["model", "event_id"])
    op.create_index("ix_unpriced_usage_organization_id_event_id", "unpriced_usage", ["organization_id", "event_id"])
    op.execute(
        "create trigger append_only before update or delete or truncate on ledger_entries"
        " for each statement execute function refuse_change()"
    )
    op.execute(_KEEP_RATE_CARDS)
    op.execute(
        "create trigger keep_in_force before update or delete on rate_cards"
        " for each row execute function keep_rate_cards_in_force()"
    )
    op.execute(
        "create trigger keep_all before truncate on rate_cards for each statement execute function refuse_change()"
    )


def _create_ledger() -> None:
    op.create_table(
        "ledger_entries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount", _AMOUNT, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("rate_card_id", sa.Text(), nullable=True),
        sa.Column("lines", JSONB(none_as_null=True), nullable=True),
        sa.Column("project_id", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("usage_started_at", _TIME, nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_entries"),
        sa.UniqueConstraint("event_id", name="uq_ledger_entries_event_id"),
        sa.UniqueConstraint("organization_id", "reference", name="uq_ledger_entries_organization_id_reference"),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["accounts.organization_id"], name="fk_ledger_entries_organization_id_accounts"
        ),
        sa.ForeignKeyConstraint(["rate_card_id"], ["rate_cards.id"], name="fk_ledger_entries_rate_card_id_rate_cards"),
    )
    for columns in (
        ["organization_id", "id"],
        ["organization_id", "usage_started_at"],
        ["model", "currency", "usage_started_at"],
    ):
        op.create_index(f"ix_ledger_entries_{'_'.join(columns)}", "ledger_entries", columns)


def downgrade() -> None:
    """Drops the tables."""
    for table in ("unpriced_usage", "ledger_entries", "accounts", "rate_cards"):
        op.drop_table(table)
    op.execute("drop function keep_rate_cards_in_force()")
