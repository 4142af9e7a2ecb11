"""Tables of identity."""

revision = "0002"
down_revision: str | None = "0001"


def upgrade() -> None:
    """Creates the tables."""


def downgrade() -> None:
    """Drops the tables."""
