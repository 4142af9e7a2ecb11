"""Tables of metering. `usage_events` is append-only: a trigger (migration 0005) refuses every change."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from cloudcrest.infra.database import Base


class UsageEventRow(Base):
    """One served request. No foreign keys: an event of something unknown is kept all the same."""

    __tablename__ = "usage_events"
    __table_args__ = (
        Index("ix_usage_events_organization_id_id", "organization_id", "id"),
        Index("ix_usage_events_project_id_id", "project_id", "id"),
        Index("ix_usage_events_key_id_id", "key_id", "id"),
        Index("ix_usage_events_organization_id_started_at", "organization_id", "started_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    received_at: Mapped[datetime]
    duration_milliseconds: Mapped[int] = mapped_column(BigInteger)
    first_token_milliseconds: Mapped[int | None] = mapped_column(BigInteger)
    region: Mapped[str]
    gateway: Mapped[str]
    organization_id: Mapped[str]
    project_id: Mapped[str]
    key_id: Mapped[str]
    model: Mapped[str]
    deployment_id: Mapped[str]
    replica_id: Mapped[str]
    endpoint: Mapped[str]
    outcome: Mapped[str]
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_input_tokens: Mapped[int] = mapped_column(BigInteger)
    reasoning_tokens: Mapped[int] = mapped_column(BigInteger)
    cache_write_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    characters: Mapped[int] = mapped_column(BigInteger, server_default="0")
    audio_milliseconds: Mapped[int] = mapped_column(BigInteger, server_default="0")
    images: Mapped[int] = mapped_column(BigInteger, server_default="0")
    accelerator_milliseconds: Mapped[int] = mapped_column(BigInteger, server_default="0")
    cpu_milliseconds: Mapped[int] = mapped_column(BigInteger, server_default="0")
    is_estimate: Mapped[bool]
    is_stream: Mapped[bool]
    grants: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    rate_card_id: Mapped[str | None]
    tier: Mapped[str] = mapped_column(server_default="standard")
