"""What is append-only stays so in a session that replays as a replica, where ordinary triggers do not fire."""

from alembic import op

revision = "0010"
down_revision: str | None = "0009"

_TRIGGERS = (
    ("ledger_entries", "append_only"),
    ("usage_events", "append_only"),
    ("rate_cards", "keep_in_force"),
    ("rate_cards", "keep_all"),
)


def upgrade() -> None:
    """The triggers always fire."""
    for table, trigger in _TRIGGERS:
        op.execute(f"alter table {table} enable always trigger {trigger}")


def downgrade() -> None:
    """They fire as triggers do."""
    for table, trigger in _TRIGGERS:
        op.execute(f"alter table {table} enable trigger {trigger}")
