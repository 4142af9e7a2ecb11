"""The tables of a region's own database. They hold what tenants send, which never leaves the region."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, MetaData, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cloudcrest.infra.database import COLUMN_TYPES, NAMING


class ContentBase(DeclarativeBase):
    """The base of a region's tables: another database than the control plane's."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar = COLUMN_TYPES


class FileRow(ContentBase):
    """A file. `state`: uploading (its bytes are coming in), ready, or deleting (its object is to be removed)."""

    __tablename__ = "files"
    __table_args__ = (
        Index("ix_files_project_id_id", "project_id", "id"),
        Index("ix_files_unfinished", "state", postgresql_where=text("state <> 'ready'")),
        Index("ix_files_expires_at", "expires_at", postgresql_where=text("expires_at is not null")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str]
    project_id: Mapped[str]
    key_id: Mapped[str]
    purpose: Mapped[str]
    filename: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]


class BatchRow(ContentBase):
    """A batch. Its counts grow in the transaction of the line that they count."""

    __tablename__ = "batches"
    __table_args__ = (
        Index("ix_batches_project_id_id", "project_id", "id"),
        Index("ix_batches_unfinished", "id", postgresql_where=text("ended_at is null")),
        Index("ix_batches_input_file_id", "input_file_id", postgresql_where=text("ended_at is null")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str]
    project_id: Mapped[str]
    key_id: Mapped[str]
    endpoint: Mapped[str]
    input_file_id: Mapped[str]
    status: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    metadata_: Mapped[dict[str, str] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    errors: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    output_lifetime_seconds: Mapped[int | None]
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]
    total: Mapped[int]
    completed: Mapped[int]
    failed: Mapped[int]
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    reasoning_tokens: Mapped[int] = mapped_column(BigInteger)
    in_progress_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class BatchLineRow(ContentBase):
    """A line of a batch that has not ended. `state`: waiting, done or failed; `body` is the answer's, `error` why there
    is none. `attempt` is the one that is under way or to come.
    """

    __tablename__ = "batch_lines"
    __table_args__ = (
        Index("ix_batch_lines_waiting", "batch_id", "number", postgresql_where=text("state = 'waiting'")),
    )

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    start_byte: Mapped[int] = mapped_column(BigInteger)
    end_byte: Mapped[int] = mapped_column(BigInteger)
    custom_id: Mapped[str | None]
    state: Mapped[str]
    attempt: Mapped[int]
    status_code: Mapped[int | None]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))


class ResponseRow(ContentBase):
    """A stored response. `items`: its own input, `document`: what it became, both JSON; `item_ids`: of both."""

    __tablename__ = "responses"
    __table_args__ = (
        Index("ix_responses_project_id_id", "project_id", "id"),
        Index("ix_responses_expires_at", "expires_at"),
        Index("ix_responses_item_ids", "item_ids", postgresql_using="gin"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str]
    project_id: Mapped[str]
    key_id: Mapped[str]
    previous_response_id: Mapped[str | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    items: Mapped[bytes] = mapped_column(LargeBinary)
    document: Mapped[bytes] = mapped_column(LargeBinary)
    is_running: Mapped[bool] = mapped_column(server_default=text("false"))
    item_ids: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))


class ConversationRow(ContentBase):
    """A conversation. `metadata`: JSON. `next_position`: of the item to come; `size_bytes`: what it counts for."""

    __tablename__ = "conversations"
    __table_args__ = (
        Index("ix_conversations_project_id", "project_id"),
        Index("ix_conversations_expires_at", "expires_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str]
    project_id: Mapped[str]
    key_id: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    metadata_: Mapped[bytes] = mapped_column("metadata", LargeBinary)
    next_position: Mapped[int] = mapped_column(BigInteger)
    item_count: Mapped[int] = mapped_column(BigInteger)
    size_bytes: Mapped[int] = mapped_column(BigInteger)


class ConversationItemRow(ContentBase):
    """An item of a conversation, as JSON. Positions only grow; where items were deleted, there are gaps."""

    __tablename__ = "conversation_items"
    __table_args__ = (UniqueConstraint("conversation_id", "id"), Index("ix_conversation_items_id", "id"))

    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[str]
    document: Mapped[bytes] = mapped_column(LargeBinary)
