"""The table of regions."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from cloudcrest.infra.database import Base


class RegionRow(Base):
    """One region. Its link token is kept as a SHA-256 (hex): it has 256 random bits, so a plain hash is enough."""

    __tablename__ = "regions"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    jurisdiction: Mapped[str]
    endpoint_url: Mapped[str | None]
    token_sha256: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime | None]
