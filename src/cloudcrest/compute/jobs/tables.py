"""The control plane's tables of jobs: what was asked for, what regions report of it, secrets that jobs are given."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from cloudcrest.infra.database import Base


class JobRow(Base):
    """One job. `document` is what its region is told; `report` what the region last said of it."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_project_id", "project_id", "id"),
        Index("ix_jobs_unfinished", "project_id", postgresql_where="ended_at is null"),
        Index("ix_jobs_ended_at", "ended_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str]
    project_id: Mapped[str]
    region: Mapped[str]
    name: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str]
    secrets: Mapped[list[str]] = mapped_column(JSONB)
    document: Mapped[dict[str, Any]] = mapped_column(JSONB)
    report: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    reported_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class ProjectSecretRow(Base):
    """A secret of a project, sealed. Its value is never shown again."""

    __tablename__ = "project_secrets"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    sealed: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ComputePolicyRow(Base):
    """What an operator grants an organization beyond what everyone may."""

    __tablename__ = "compute_policies"

    organization_id: Mapped[str] = mapped_column(primary_key=True)
    is_trusted: Mapped[bool]
    may_run_high: Mapped[bool]
    updated_at: Mapped[datetime]
