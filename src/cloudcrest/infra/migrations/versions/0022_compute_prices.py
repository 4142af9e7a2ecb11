"""Seconds of accelerators and processors, and what they cost."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision: str | None = "0021"

_PRICES = ("price_per_accelerator_second", "price_per_cpu_second")
_COUNTS = ("accelerator_milliseconds", "cpu_milliseconds")


def upgrade() -> None:
    """What was there before used none of it."""
    for name in _PRICES:
        op.add_column("rate_cards", sa.Column(name, sa.Numeric(38, 12), nullable=True))
    for name in _COUNTS:
        op.add_column("usage_events", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """All of it is forgotten."""
    for name in _COUNTS:
        op.drop_column("usage_events", name)
    for name in _PRICES:
        op.drop_column("rate_cards", name)
