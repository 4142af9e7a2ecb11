"""Two suspensions: what an operator does by hand, and what follows from the balance, no longer undo each other."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision: str | None = "0008"

_SPLIT = """
update organizations set balance_suspended_reason = operator_suspended_reason, operator_suspended_reason = null
from accounts where accounts.organization_id = organizations.id and accounts.is_suspended
"""


def upgrade() -> None:
    """A suspension of an account without balance is taken for billing's, any other for an operator's."""
    op.alter_column("organizations", "suspended_reason", new_column_name="operator_suspended_reason")
    op.add_column("organizations", sa.Column("balance_suspended_reason", sa.Text()))
    op.execute(_SPLIT)


def downgrade() -> None:
    """One reason again, the operator's first."""
    op.execute(
        "update organizations set operator_suspended_reason ="
        " coalesce(operator_suspended_reason, balance_suspended_reason)"
    )
    op.drop_column("organizations", "balance_suspended_reason")
    op.alter_column("organizations", "operator_suspended_reason", new_column_name="suspended_reason")
