"""The table of accelerator types."""

from datetime import datetime
from typing import Any

from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from cloudcrest.infra.database import Base


class AcceleratorTypeRow(Base):
    """One type. `origin`: "known" (of known.toml, followed as it changes), "detected" (made from what a node reports)
    or "operator" (left as they made it). `known_sha256`: of the known entry last applied.
    """

    __tablename__ = "accelerator_types"

    id: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[dict[str, Any]] = mapped_column(JSONB)
    origin: Mapped[str]
    known_sha256: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
