"""Balances are held by budgets' books: who was suspended for want of balance is so no more, and gateways are told."""

from alembic import op

revision = "0015"
down_revision: str | None = "0014"

_TELL = """
update published_documents d
set body = jsonb_set(d.body, '{suspended_reason}', coalesce(to_jsonb(o.operator_suspended_reason), 'null'::jsonb)),
    revision = nextval('published_documents_revision')
from organizations o
where d.kind = 'organization' and d.id = o.id and d.body is not null and o.balance_suspended_reason is not null
"""


def upgrade() -> None:
    """Lifts them. The columns stay for processes of the version before."""
    op.execute(_TELL)
    op.execute("update organizations set balance_suspended_reason = null where balance_suspended_reason is not null")
    op.execute("update accounts set is_suspended = false where is_suspended")


def downgrade() -> None:
    """The version before suspends anew with the next charge."""
