"""The table of quotas."""

from datetime import datetime

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from cloudcrest.infra.database import Base


class QuotaRow(Base):
    """One quota. `project_id` empty: the organization's own. Amounts in thousandths of accelerators, or of CPUs."""

    __tablename__ = "compute_quotas"
    __table_args__ = (
        Index("ix_compute_quotas_owner", "region", "organization_id", "project_id", "resource", unique=True),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str]
    organization_id: Mapped[str]
    project_id: Mapped[str]
    resource: Mapped[str]
    guaranteed_milli: Mapped[int] = mapped_column(BigInteger)
    ceiling_milli: Mapped[int | None] = mapped_column(BigInteger)
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
