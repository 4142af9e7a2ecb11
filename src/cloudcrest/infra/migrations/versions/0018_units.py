"""Usage that is not counted in tokens, tokens written into a cache, batches; and what all of that costs."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision: str | None = "0017"

_PRICES = (
    "cache_write_price_per_million_tokens",
    "batch_input_price_per_million_tokens",
    "batch_cached_input_price_per_million_tokens",
    "batch_output_price_per_million_tokens",
    "price_per_million_characters",
    "price_per_audio_second",
    "price_per_image",
)
_COUNTS = ("cache_write_tokens", "characters", "audio_milliseconds", "images")


def upgrade() -> None:
    """What was there before used none of it; its rate cards mean what they meant."""
    for name in _PRICES:
        op.add_column("rate_cards", sa.Column(name, sa.Numeric(38, 12), nullable=True))
    for name in _COUNTS:
        op.add_column("usage_events", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("usage_events", sa.Column("tier", sa.Text(), nullable=False, server_default="standard"))


def downgrade() -> None:
    """All of it is forgotten."""
    op.drop_column("usage_events", "tier")
    for name in _COUNTS:
        op.drop_column("usage_events", name)
    for name in _PRICES:
        op.drop_column("rate_cards", name)
