"""The tables of the catalog: models, their artifacts, and pulls."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from cloudcrest.infra.database import Base


class ModelRow(Base):
    """One model. `seed_sha256`: the seed entry last applied; `origin` "operator": seeding leaves it alone.

    A deleted model keeps its row (`deleted_at`), so that seeding does not bring it back.
    """

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    family: Mapped[str] = mapped_column(index=True)
    task: Mapped[str] = mapped_column(index=True)
    context_tokens: Mapped[int] = mapped_column(BigInteger)
    input_modalities: Mapped[list[str]] = mapped_column(JSONB)
    output_modalities: Mapped[list[str]] = mapped_column(JSONB)
    languages: Mapped[list[str]] = mapped_column(JSONB)
    licence: Mapped[str | None]
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    active_parameters: Mapped[int | None] = mapped_column(BigInteger)
    dimensions: Mapped[int | None] = mapped_column(BigInteger)
    tool_format: Mapped[str | None]
    moderation_format: Mapped[str | None]
    base_model: Mapped[str | None]
    adapter_of: Mapped[str | None]
    quantized_from: Mapped[str | None]
    homepage: Mapped[str | None]
    description: Mapped[str | None]
    origin: Mapped[str]
    revision: Mapped[int] = mapped_column(BigInteger)
    seed_sha256: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class ModelArtifactRow(Base):
    """Weights of a model, in the order they are preferred. `files`: [{path, sha256, size_bytes}]."""

    __tablename__ = "model_artifacts"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    format: Mapped[str]
    entry: Mapped[str]
    quantization: Mapped[str | None]
    convert: Mapped[str | None]
    files: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    sources: Mapped[list[str]] = mapped_column(JSONB)


class ModelPullRow(Base):
    """One region's task to hold one model, with the region's last report."""

    __tablename__ = "model_pulls"
    __table_args__ = (UniqueConstraint("model_id", "region"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    region: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    phase: Mapped[str]
    done_bytes: Mapped[int] = mapped_column(BigInteger)
    total_bytes: Mapped[int | None] = mapped_column(BigInteger)
    source: Mapped[str | None]
    reason: Mapped[str | None]
