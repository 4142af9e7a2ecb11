"""The tables of a region's own database. They hold what tenants send, which never leaves the region."""

from datetime import datetime
from typing import ClassVar

from sqlalchemy import BigInteger, Index, MetaData, text
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
