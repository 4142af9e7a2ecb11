"""Tables of metering."""

revision = "0005"
down_revision: str | None = "0004"


def upgrade() -> None:
    """Creates the tables."""


def downgrade() -> None:
    """Drops the tables."""
