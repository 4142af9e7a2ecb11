"""The tables of nodes and racks."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from cloudcrest.infra.database import Base


class NodeRow(Base):
    """A node: what was set of it, and what its region last reported. `status_sha256`: of the report, so that one that
    says nothing new writes nothing; empty: the next one is kept whatever it says. `is_ready`, `accelerator_type`,
    `accelerators`, `allocated_milli`: of the report, for counting. `gone_since`: no longer reported.
    """

    __tablename__ = "nodes"
    __table_args__ = (UniqueConstraint("region", "node_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str]
    node_id: Mapped[str]
    settings: Mapped[dict[str, Any]] = mapped_column(JSONB)
    status: Mapped[dict[str, Any]] = mapped_column(JSONB)
    status_sha256: Mapped[str]
    is_ready: Mapped[bool]
    accelerator_type: Mapped[str | None]
    accelerators: Mapped[int]
    allocated_milli: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    gone_since: Mapped[datetime | None]


class RackRow(Base):
    """A rack with a limit to its power."""

    __tablename__ = "racks"
    __table_args__ = (UniqueConstraint("region", "zone", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str]
    zone: Mapped[str]
    name: Mapped[str]
    power_limit_watts: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
