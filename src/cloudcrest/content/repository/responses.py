"""Reads and writes stored responses."""

from datetime import datetime

import msgspec
from sqlalchemy import Text, cast, delete, func, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.content.api import StoredResponse
from cloudcrest.content.tables import ResponseRow

_NAMES = tuple(field.name for field in msgspec.structs.fields(StoredResponse))


async def put(session: AsyncSession, response: StoredResponse) -> None:
    """Keeps a response, in place of what it was before."""
    statement = insert(ResponseRow).values({name: getattr(response, name) for name in _NAMES})
    changed = {name: statement.excluded[name] for name in ("document", "is_running", "item_ids")}
    await session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed))


async def running(session: AsyncSession, most: int) -> list[StoredResponse]:
    """What a process that is gone left running."""
    rows = await session.scalars(select(ResponseRow).where(ResponseRow.is_running).limit(most))
    return [StoredResponse(**{name: getattr(row, name) for name in _NAMES}) for row in rows]


async def find(session: AsyncSession, project_id: str, response_id: str, now: datetime) -> StoredResponse | None:
    """A response of this project; None: there is none, or no longer."""
    chosen = ResponseRow.id == response_id, ResponseRow.project_id == project_id, ResponseRow.expires_at > now
    row = await session.scalar(select(ResponseRow).where(*chosen))
    return None if row is None else StoredResponse(**{name: getattr(row, name) for name in _NAMES})


async def with_item(session: AsyncSession, project_id: str, item_id: str, now: datetime) -> str | None:
    """The id of this project's newest response that has an item of this id and has ended; None: there is none."""
    having = (
        select(ResponseRow.id, ResponseRow.project_id, ResponseRow.expires_at, ResponseRow.is_running)
        .where(ResponseRow.item_ids.contains(cast([item_id], ARRAY(Text))))
        .cte("having_it")
        # By its index: else all that the project has is looked through, the newest first.
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    chosen = having.c.project_id == project_id, having.c.expires_at > now, ~having.c.is_running
    found: str | None = await session.scalar(select(having.c.id).where(*chosen).order_by(having.c.id.desc()).limit(1))
    return found


async def remove(session: AsyncSession, project_id: str, response_id: str) -> bool:
    """Forgets a response; False: there is none."""
    statement = delete(ResponseRow).where(ResponseRow.id == response_id, ResponseRow.project_id == project_id)
    return await session.scalar(statement.returning(ResponseRow.id)) is not None


async def trim(session: AsyncSession, now: datetime, most_of_a_project: int, most_bytes: int, most: int) -> int:
    """Forgets what has expired, and of each project what is beyond its bounds, the oldest first; how much it was."""
    project, newest_first = ResponseRow.project_id, ResponseRow.id.desc()
    size_bytes = func.octet_length(ResponseRow.items) + func.octet_length(ResponseRow.document)
    place = func.row_number().over(partition_by=project, order_by=newest_first).label("place")
    size = func.sum(size_bytes).over(partition_by=project, order_by=newest_first).label("size")
    ranked = select(ResponseRow.id, ResponseRow.expires_at, place, size).subquery()
    is_beyond = or_(ranked.c.expires_at <= now, ranked.c.place > most_of_a_project, ranked.c.size > most_bytes)
    due = select(ranked.c.id).where(is_beyond).limit(most)
    statement = delete(ResponseRow).where(ResponseRow.id.in_(due)).returning(ResponseRow.id)
    return len((await session.scalars(statement)).all())
