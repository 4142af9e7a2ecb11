"""Reads and writes conversations and their items. Who appends holds the conversation's row, so turns stay whole."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.content.api import Conversation
from cloudcrest.content.tables import ConversationItemRow, ConversationRow

_SAME_NAMES = tuple(field.name for field in msgspec.structs.fields(Conversation) if field.name != "metadata")


class Encoded(msgspec.Struct, frozen=True):
    """An item as JSON."""

    id: str
    document: bytes


async def add(session: AsyncSession, conversation: Conversation) -> None:
    """Adds one without items."""
    session.add(ConversationRow(**_values(conversation)))
    await session.flush()


async def find(
    session: AsyncSession, project_id: str, conversation_id: str, now: datetime, *, is_held: bool = False
) -> Conversation | None:
    """One of this project; None: there is none, or no longer. `is_held`: nobody else changes it meanwhile."""
    statement = select(ConversationRow).where(
        ConversationRow.id == conversation_id,
        ConversationRow.project_id == project_id,
        ConversationRow.expires_at > now,
    )
    row = await session.scalar(statement.with_for_update() if is_held else statement)
    return None if row is None else _conversation(row)


async def project_bytes(session: AsyncSession, project_id: str) -> int:
    """What all of a project's count for."""
    total = func.coalesce(func.sum(ConversationRow.size_bytes), 0)
    return int(await session.scalar(select(total).where(ConversationRow.project_id == project_id)) or 0)


async def save(session: AsyncSession, conversation: Conversation) -> None:
    """Puts one that is held in place of what it was."""
    statement = update(ConversationRow).where(ConversationRow.id == conversation.id)
    await session.execute(statement.values(**_values(conversation)))


async def remove(session: AsyncSession, project_id: str, conversation_id: str) -> bool:
    """Forgets one and its items; False: there is none."""
    chosen = ConversationRow.id == conversation_id, ConversationRow.project_id == project_id
    return await session.scalar(delete(ConversationRow).where(*chosen).returning(ConversationRow.id)) is not None


async def add_items(session: AsyncSession, conversation_id: str, position: int, items: Sequence[Encoded]) -> None:
    """Puts items at this position and those behind it."""
    rows = [
        {"conversation_id": conversation_id, "position": position + index, "id": item.id, "document": item.document}
        for index, item in enumerate(items)
    ]
    if rows:
        await session.execute(insert(ConversationItemRow), rows)


async def taken(session: AsyncSession, conversation_id: str, item_ids: Sequence[str]) -> set[str]:
    """Which of these ids its items have."""
    chosen = ConversationItemRow.conversation_id == conversation_id, ConversationItemRow.id.in_(item_ids)
    return set(await session.scalars(select(ConversationItemRow.id).where(*chosen)))


async def items(session: AsyncSession, conversation_id: str) -> list[bytes]:
    """All of them, oldest first."""
    statement = select(ConversationItemRow.document).where(ConversationItemRow.conversation_id == conversation_id)
    return [*(await session.scalars(statement.order_by(ConversationItemRow.position)))]


async def position(session: AsyncSession, conversation_id: str, item_id: str) -> int | None:
    """Where an item is."""
    chosen = ConversationItemRow.conversation_id == conversation_id, ConversationItemRow.id == item_id
    return await session.scalar(select(ConversationItemRow.position).where(*chosen))


async def page(
    session: AsyncSession, conversation_id: str, *, after: int | None, most: int, is_ascending: bool
) -> list[Encoded]:
    """The items behind a position, in this order."""
    place = ConversationItemRow.position
    statement = select(ConversationItemRow).where(ConversationItemRow.conversation_id == conversation_id)
    if after is not None:
        statement = statement.where(place > after if is_ascending else place < after)
    rows = await session.scalars(statement.order_by(place.asc() if is_ascending else place.desc()).limit(most))
    return [Encoded(row.id, row.document) for row in rows]


async def item(session: AsyncSession, conversation_id: str, item_id: str) -> bytes | None:
    """One item."""
    chosen = ConversationItemRow.conversation_id == conversation_id, ConversationItemRow.id == item_id
    return await session.scalar(select(ConversationItemRow.document).where(*chosen))


async def item_of_project(session: AsyncSession, project_id: str, item_id: str, now: datetime) -> bytes | None:
    """An item of any of this project's conversations, of the one used last."""
    statement = select(ConversationItemRow.document).join(
        ConversationRow, ConversationRow.id == ConversationItemRow.conversation_id
    )
    chosen = ConversationItemRow.id == item_id, ConversationRow.project_id == project_id
    statement = statement.where(*chosen, ConversationRow.expires_at > now)
    return await session.scalar(statement.order_by(ConversationRow.expires_at.desc()).limit(1))


async def remove_item(session: AsyncSession, conversation_id: str, item_id: str) -> bytes | None:
    """Forgets an item of one that is held; what it was."""
    chosen = ConversationItemRow.conversation_id == conversation_id, ConversationItemRow.id == item_id
    return await session.scalar(delete(ConversationItemRow).where(*chosen).returning(ConversationItemRow.document))


async def trim(session: AsyncSession, now: datetime, most_of_a_project: int, most: int) -> int:
    """Forgets what has expired, and of each project what is beyond its bound, the longest unused first; how much."""
    order = ConversationRow.expires_at.desc(), ConversationRow.id.desc()
    place = func.row_number().over(partition_by=ConversationRow.project_id, order_by=order).label("place")
    ranked = select(ConversationRow.id, ConversationRow.expires_at, place).subquery()
    due = select(ranked.c.id).where(or_(ranked.c.expires_at <= now, ranked.c.place > most_of_a_project)).limit(most)
    statement = delete(ConversationRow).where(ConversationRow.id.in_(due)).returning(ConversationRow.id)
    return len((await session.scalars(statement)).all())


def _values(conversation: Conversation) -> dict[str, Any]:
    return {**{name: getattr(conversation, name) for name in _SAME_NAMES}, "metadata_": conversation.metadata}


def _conversation(row: ConversationRow) -> Conversation:
    return Conversation(**{name: getattr(row, name) for name in _SAME_NAMES}, metadata=row.metadata_)
