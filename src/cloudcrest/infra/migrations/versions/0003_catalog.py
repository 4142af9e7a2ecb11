"""Tables of catalog."""

revision = "0003"
down_revision: str | None = "0002"


def upgrade() -> None:
    """Creates the tables."""


def downgrade() -> None:
    """Drops the tables."""
