"""Tables of metering."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"

_REFUSE = """
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: % refused', tg_table_name, tg_op using errcode = 'restrict_violation';
end
$$
"""


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "usage_events",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_milliseconds", sa.BigInteger(), nullable=False),
        sa.Column("first_token_milliseconds", sa.BigInteger(), nullable=True),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in (
                "region",
                "gateway",
                "organization_id",
                "project_id",
                "key_id",
                "model",
                "deployment_id",
                "replica_id",
                "endpoint",
                "outcome",
            )
        ),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
        ),
        sa.Column("is_estimate", sa.Boolean(), nullable=False),
        sa.Column("is_stream", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage_events"),
    )
    for columns in (
        ["organization_id", "id"],
        ["project_id", "id"],
        ["key_id", "id"],
        ["organization_id", "started_at"],
    ):
        op.create_index(f"ix_usage_events_{'_'.join(columns)}", "usage_events", columns)
    op.execute(_REFUSE)
    op.execute(
        "create trigger append_only before update or delete or truncate on usage_events"
        " for each statement execute function refuse_change()"
    )


def downgrade() -> None:
    """Drops the tables."""
    op.drop_table("usage_events")
    op.execute("drop function refuse_change()")
