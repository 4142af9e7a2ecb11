"""What items a stored response has, so that each of them can be found by its id."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision: str | None = "0005"

# What people said may hold \u0000, which PostgreSQL reads in no JSON. Nothing of it is kept here but the ids.
_FILL = r"""
with told as (
    select id,
        replace(convert_from(items, 'UTF8'), '\u0000', '\u0020')::json items,
        replace(convert_from(document, 'UTF8'), '\u0000', '\u0020')::json -> 'output' output
    from responses
)
update responses set item_ids = array(
    select item ->> 'id' from json_array_elements(told.items) item
    union all
    select item ->> 'id' from json_array_elements(told.output) item
) from told where told.id = responses.id
"""


def upgrade() -> None:
    """Adds the column and the indexes, and fills it from what there is."""
    op.add_column("responses", sa.Column("item_ids", sa.ARRAY(sa.Text()), server_default="{}", nullable=False))
    op.execute(_FILL)
    op.create_index("ix_responses_item_ids", "responses", ["item_ids"], postgresql_using="gin")
    op.create_index("ix_conversation_items_id", "conversation_items", ["id"])


def downgrade() -> None:
    """Drops them."""
    op.drop_index("ix_conversation_items_id", "conversation_items")
    op.drop_column("responses", "item_ids")
