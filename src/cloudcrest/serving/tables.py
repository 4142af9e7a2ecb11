"""The tables of serving: desired state, and what regions last reported of it."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from cloudcrest.infra.database import Base
from cloudcrest.serving.api import DEFAULT_WEIGHT


class DeploymentRow(Base):
    """One deployment. `model_document` is the model as it was when the deployment was made or last changed.

    `engine_options` may hold a provider's key, sealed.
    """

    __tablename__ = "deployments"
    __table_args__ = (Index("ix_deployments_region_name", "region", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    model_id: Mapped[str]
    model_document: Mapped[dict[str, Any]] = mapped_column(JSONB)
    engine: Mapped[str]
    engine_options: Mapped[dict[str, Any]] = mapped_column(JSONB)
    region: Mapped[str]
    generation: Mapped[int]
    replicas_min: Mapped[int]
    replicas_max: Mapped[int]
    context_tokens: Mapped[int]
    slots: Mapped[int]
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    cpu_threads: Mapped[int | None]
    organization_id: Mapped[str | None]
    requests_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    tokens_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    concurrent_requests: Mapped[int | None]
    growth_percent_per_minute: Mapped[int | None]
    growth_floor_requests_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    weight: Mapped[int] = mapped_column(server_default=str(DEFAULT_WEIGHT))
    placement: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ReplicaStatusRow(Base):
    """What a region last reported of one replica. A report replaces all of its region's rows."""

    __tablename__ = "replica_status"
    __table_args__ = (Index("ix_replica_status_deployment_id", "deployment_id"),)

    region: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    deployment_id: Mapped[str]
    generation: Mapped[int]
    state: Mapped[str]
    restarts: Mapped[int]
    reason: Mapped[str | None]
    pull: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    node_id: Mapped[str] = mapped_column(server_default="")
    reported_at: Mapped[datetime]
