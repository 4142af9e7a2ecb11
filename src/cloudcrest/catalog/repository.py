"""Reads and writes models and pulls."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.catalog.api import Artifact, PullProgress
from cloudcrest.catalog.records import Model, ModelPull, StoredModel
from cloudcrest.catalog.tables import ModelArtifactRow, ModelPullRow, ModelRow
from cloudcrest.infra.http.paging import PageRequest

Origin = Literal["seed", "operator"]
_SEED_LOCK = 0x636174616C6F67
_COLUMNS = [field for field in Model.__struct_fields__ if field != "artifacts"]


class ModelFilter(msgspec.Struct, frozen=True):
    """Which models to list. `text` is looked for in id, name and family, whatever the case."""

    family: str | None = None
    task: str | None = None
    text: str | None = None


async def find(session: AsyncSession, model_id: str) -> StoredModel | None:
    """One model, None when there is none of this id."""
    row = await session.get(ModelRow, model_id, populate_existing=True)
    if row is None or row.deleted_at is not None:
        return None
    [stored] = await _with_artifacts(session, [row])
    return stored


async def page(session: AsyncSession, request: PageRequest, wanted: ModelFilter) -> list[StoredModel]:
    """The models of a page in the order of their ids, with one more than the page when there are more."""
    statement = select(ModelRow).where(ModelRow.deleted_at.is_(None))
    if request.cursor is not None:
        statement = statement.where(ModelRow.id > request.cursor)
    if wanted.family is not None:
        statement = statement.where(func.lower(ModelRow.family) == wanted.family.lower())
    if wanted.task is not None:
        statement = statement.where(ModelRow.task == wanted.task)
    if wanted.text is not None:
        columns = (ModelRow.id, ModelRow.name, ModelRow.family)
        statement = statement.where(or_(*(column.icontains(wanted.text, autoescape=True) for column in columns)))
    rows = (await session.scalars(statement.order_by(ModelRow.id).limit(request.limit + 1))).all()
    return await _with_artifacts(session, rows)


async def ids(session: AsyncSession) -> list[str]:
    """Every model's id, sorted."""
    statement = select(ModelRow.id).where(ModelRow.deleted_at.is_(None)).order_by(ModelRow.id)
    return [*(await session.scalars(statement))]


async def descendants(session: AsyncSession, model_id: str) -> list[str]:
    """The ids of models that name this one in their lineage."""
    columns = (ModelRow.base_model, ModelRow.adapter_of, ModelRow.quantized_from)
    statement = select(ModelRow.id).where(ModelRow.deleted_at.is_(None), or_(*(each == model_id for each in columns)))
    return [*(await session.scalars(statement.order_by(ModelRow.id)))]


async def seed_states(session: AsyncSession) -> dict[str, tuple[str, str | None]]:
    """Every model ever known, deleted ones too: id → (origin, hash of the seed entry last applied)."""
    await session.execute(select(func.pg_advisory_xact_lock(_SEED_LOCK)))
    rows = await session.execute(select(ModelRow.id, ModelRow.origin, ModelRow.seed_sha256))
    return {model_id: (origin, seed_sha256) for model_id, origin, seed_sha256 in rows}


async def save(session: AsyncSession, model: Model, *, origin: Origin, now: datetime) -> None:
    """Writes a model whole: new, over the one of its id, or in the place of a deleted one."""
    await save_all(session, [(model, None)], origin=origin, now=now)


async def save_all(
    session: AsyncSession, models: Sequence[tuple[Model, str | None]], *, origin: Origin, now: datetime
) -> None:
    """Writes many at once, each with the hash of its seed entry where it comes from one."""
    if not models:
        return
    written = {"origin": origin, "created_at": now, "updated_at": now, "deleted_at": None, "revision": 1}
    rows = [
        {**{name: _plain(getattr(model, name)) for name in _COLUMNS}, **written, "seed_sha256": seed_sha256}
        for model, seed_sha256 in models
    ]
    statement = insert(ModelRow).values(rows)
    changed: dict[str, Any] = {
        name: statement.excluded[name] for name in rows[0] if name not in ("id", "created_at", "revision")
    }
    changed["revision"] = ModelRow.revision + 1
    await session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed))
    ids_written = [model.id for model, _ in models]
    await session.execute(delete(ModelArtifactRow).where(ModelArtifactRow.model_id.in_(ids_written)))
    artifacts = [
        _artifact_values(model.id, position, artifact)
        for model, _ in models
        for position, artifact in enumerate(model.artifacts)
    ]
    if artifacts:
        await session.execute(insert(ModelArtifactRow).values(artifacts))


async def mark_deleted(session: AsyncSession, model_id: str, now: datetime) -> None:
    """Deletes a model; its row stays, so that seeding does not bring it back."""
    await session.execute(
        update(ModelRow).where(ModelRow.id == model_id).values(deleted_at=now, updated_at=now, origin="operator")
    )
    await session.execute(delete(ModelArtifactRow).where(ModelArtifactRow.model_id == model_id))


async def find_pull(session: AsyncSession, pull_id: str) -> ModelPull | None:
    """One pull, None when there is none of this id."""
    row = await session.get(ModelPullRow, pull_id, populate_existing=True)
    return None if row is None else _pull(row)


async def find_pull_of(session: AsyncSession, model_id: str, region: str) -> ModelPull | None:
    """A region's pull of a model."""
    row = await session.scalar(
        select(ModelPullRow).where(ModelPullRow.model_id == model_id, ModelPullRow.region == region).with_for_update()
    )
    return None if row is None else _pull(row)


async def page_pulls(
    session: AsyncSession, request: PageRequest, *, model_id: str | None, region: str | None
) -> list[ModelPull]:
    """The pulls of a page, newest first, with one more than the page when there are more."""
    statement = select(ModelPullRow)
    if model_id is not None:
        statement = statement.where(ModelPullRow.model_id == model_id)
    if region is not None:
        statement = statement.where(ModelPullRow.region == region)
    return [_pull(row) for row in await session.scalars(request.apply(statement, ModelPullRow.id))]


async def pulls_of(session: AsyncSession, model_id: str) -> list[ModelPull]:
    """Every region's pull of a model; there are as many as regions at most."""
    rows = await session.scalars(select(ModelPullRow).where(ModelPullRow.model_id == model_id))
    return [_pull(row) for row in rows]


async def add_pull(session: AsyncSession, pull: ModelPull) -> bool:
    """Adds a pull; False when the region has one of this model already."""
    values = {
        "id": pull.id,
        "model_id": pull.model_id,
        "region": pull.region,
        "created_at": pull.created_at,
        "updated_at": pull.updated_at,
        **msgspec.structs.asdict(pull.progress),
    }
    statement = insert(ModelPullRow).values(values).on_conflict_do_nothing(index_elements=["model_id", "region"])
    return await session.scalar(statement.returning(ModelPullRow.id)) is not None


async def remove_pull(session: AsyncSession, pull_id: str) -> None:
    """Forgets a pull."""
    await session.execute(delete(ModelPullRow).where(ModelPullRow.id == pull_id))


async def set_pull_progress(
    session: AsyncSession, pull_id: str, region: str, progress: PullProgress, now: datetime
) -> None:
    """Notes how far a region's pull is; nothing is written when nothing changed or the pull is another's."""
    values: dict[str, Any] = msgspec.structs.asdict(progress)
    differs = or_(*(getattr(ModelPullRow, name).is_distinct_from(value) for name, value in values.items()))
    await session.execute(
        update(ModelPullRow)
        .where(ModelPullRow.id == pull_id, ModelPullRow.region == region, differs)
        .values({**values, "updated_at": now})
    )


async def _with_artifacts(session: AsyncSession, rows: Sequence[ModelRow]) -> list[StoredModel]:
    statement = select(ModelArtifactRow).where(ModelArtifactRow.model_id.in_([row.id for row in rows]))
    artifacts: dict[str, list[Artifact]] = {}
    for row in await session.scalars(statement.order_by(ModelArtifactRow.model_id, ModelArtifactRow.position)):
        artifacts.setdefault(row.model_id, []).append(_artifact(row))
    return [_stored(row, artifacts.get(row.id, [])) for row in rows]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _artifact_values(model_id: str, position: int, artifact: Artifact) -> dict[str, Any]:
    return {**msgspec.to_builtins(artifact), "model_id": model_id, "position": position}


def _artifact(row: ModelArtifactRow) -> Artifact:
    return msgspec.convert({name: getattr(row, name) for name in Artifact.__struct_fields__}, Artifact)


def _stored(row: ModelRow, artifacts: list[Artifact]) -> StoredModel:
    values = {name: getattr(row, name) for name in _COLUMNS}
    model = msgspec.convert({**values, "artifacts": artifacts}, Model, from_attributes=True)
    return StoredModel(
        model=model,
        origin="seed" if row.origin == "seed" else "operator",
        revision=row.revision,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _pull(row: ModelPullRow) -> ModelPull:
    progress = msgspec.convert({name: getattr(row, name) for name in PullProgress.__struct_fields__}, PullProgress)
    return ModelPull(
        id=row.id,
        model_id=row.model_id,
        region=row.region,
        created_at=row.created_at,
        updated_at=row.updated_at,
        progress=progress,
    )
