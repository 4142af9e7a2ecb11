"""Tables of infra."""

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Creates the tables."""


def downgrade() -> None:
    """Drops the tables."""
