"""Proofs of who someone is: verified e-mail addresses, and accounts at an OpenID Connect provider."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision: str | None = "0007"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Creates the tables. Addresses of accounts that are there count as unverified until their owners prove them."""
    op.add_column("users", sa.Column("email_verified_at", _TIME))
    op.create_table(
        "email_verifications",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("token_sha256", sa.Text(), nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_email_verifications"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_email_verifications_user_id_users", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("token_sha256", name="uq_email_verifications_token_sha256"),
    )
    op.create_table(
        "external_identities",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False, index=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("issuer", "subject", name="pk_external_identities"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_external_identities_user_id_users", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "used_sign_in_states",
        sa.Column("state_sha256", sa.Text(), nullable=False),
        sa.Column("expires_at", _TIME, nullable=False, index=True),
        sa.PrimaryKeyConstraint("state_sha256", name="pk_used_sign_in_states"),
    )


def downgrade() -> None:
    """Drops the tables."""
    for table in ("used_sign_in_states", "external_identities", "email_verifications"):
        op.drop_table(table)
    op.drop_column("users", "email_verified_at")
