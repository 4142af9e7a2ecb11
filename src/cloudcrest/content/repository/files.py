"""Reads and writes files' rows."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.content.api import StoredFile
from cloudcrest.content.paging import PageRequest
from cloudcrest.content.tables import BatchRow, FileRow

UPLOADING, READY, DELETING = "uploading", "ready", "deleting"


async def lock_project(session: AsyncSession, project_id: str) -> None:
    """Has what a project keeps counted by one at a time, until the transaction ends."""
    await session.execute(text("select pg_advisory_xact_lock(hashtextextended(:id, 1))"), {"id": project_id})


async def kept(session: AsyncSession, project_id: str) -> tuple[int, int]:
    """How many files a project has, those that come in included, and their bytes together."""
    counted = func.count(), func.coalesce(func.sum(FileRow.size_bytes), 0)
    statement = select(*counted).where(FileRow.project_id == project_id, FileRow.state != DELETING)
    files, size_bytes = (await session.execute(statement)).one()
    return int(files), int(size_bytes)


async def add(session: AsyncSession, file: StoredFile, state: str) -> None:
    """Adds a row."""
    session.add(
        FileRow(
            id=file.id,
            organization_id=file.organization_id,
            project_id=file.project_id,
            key_id=file.key_id,
            purpose=file.purpose,
            filename=file.filename,
            size_bytes=file.size_bytes,
            state=state,
            created_at=file.created_at,
            expires_at=file.expires_at,
        )
    )
    await session.flush()


async def finish(session: AsyncSession, file: StoredFile) -> bool:
    """Makes an upload a file; False: it was given up meanwhile."""
    statement = (
        update(FileRow)
        .where(FileRow.id == file.id, FileRow.state == UPLOADING)
        .values(
            state=READY,
            purpose=file.purpose,
            filename=file.filename,
            size_bytes=file.size_bytes,
            expires_at=file.expires_at,
        )
    )
    return await session.scalar(statement.returning(FileRow.id)) is not None


async def find(session: AsyncSession, project_id: str, file_id: str, now: datetime) -> StoredFile | None:
    """A file of this project; None: there is none, or no longer."""
    statement = select(FileRow).where(FileRow.id == file_id, FileRow.project_id == project_id, _is_there(now))
    row = await session.scalar(statement)
    return None if row is None else _file(row)


async def page(
    session: AsyncSession, project_id: str, request: PageRequest, now: datetime, purpose: str | None
) -> list[StoredFile]:
    """The files of a page, with one more where there are more."""
    statement = select(FileRow).where(FileRow.project_id == project_id, _is_there(now))
    if purpose is not None:
        statement = statement.where(FileRow.purpose == purpose)
    return [_file(row) for row in await session.scalars(request.apply(statement, FileRow.id))]


async def begin_deletion(session: AsyncSession, file_ids: Sequence[str]) -> list[str]:
    """Takes files out of sight; the ids of those that were there."""
    statement = update(FileRow).where(FileRow.id.in_(file_ids), FileRow.state != DELETING).values(state=DELETING)
    return [*(await session.scalars(statement.returning(FileRow.id)))]


async def give_up_uploads(session: AsyncSession) -> None:
    """What was coming in when the process before died, is not coming any more."""
    await session.execute(update(FileRow).where(FileRow.state == UPLOADING).values(state=DELETING))


async def to_delete(session: AsyncSession, now: datetime, most: int) -> list[StoredFile]:
    """Files whose object is to be removed: deleted or expired."""
    is_read = exists().where(BatchRow.input_file_id == FileRow.id, BatchRow.ended_at.is_(None))
    due = or_(FileRow.state == DELETING, (FileRow.state == READY) & (FileRow.expires_at <= now) & ~is_read)
    return [_file(row) for row in await session.scalars(select(FileRow).where(due).order_by(FileRow.id).limit(most))]


async def forget(session: AsyncSession, file_id: str) -> None:
    """Removes a row, its object being gone."""
    await session.execute(delete(FileRow).where(FileRow.id == file_id))


def _is_there(now: datetime) -> ColumnElement[bool]:
    return (FileRow.state == READY) & or_(FileRow.expires_at.is_(None), FileRow.expires_at > now)


def _file(row: FileRow) -> StoredFile:
    return StoredFile(
        id=row.id,
        organization_id=row.organization_id,
        project_id=row.project_id,
        key_id=row.key_id,
        purpose=row.purpose,  # type: ignore[arg-type]  # only what `FilePurpose` names is written
        filename=row.filename,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
