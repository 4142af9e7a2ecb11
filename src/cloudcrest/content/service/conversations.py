"""Conversations: items in order, put in by hand or by the responses that go on with them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.content.api import Caller, Conversation
from cloudcrest.content.paging import PageRequest
from cloudcrest.content.repository import conversations as repository
from cloudcrest.content.repository.conversations import Encoded
from cloudcrest.content.repository.files import lock_project
from cloudcrest.content.responses.conversation import (
    MAX_ITEMS_AT_ONCE,
    ConversationBody,
    Size,
    apart,
    check_ids,
    check_room,
    document_of,
    empty_size,
    is_id,
    size_of,
)
from cloudcrest.content.responses.fields import Item
from cloudcrest.content.responses.files import files_in
from cloudcrest.content.responses.request import read_items, said_before
from cloudcrest.content.settings import ContentSettings
from cloudcrest.infra.database import Database
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import InvalidInput, LimitExceeded, NotFound
from cloudcrest.kernel.ids import NewId
from cloudcrest.kernel.units import format_bytes

_TRIMMED_AT_ONCE = 100
_RETRY_SECONDS = 3600.0


class Conversations:
    """The conversations of every project of a region. Another project's are `NotFound`, as is one that has expired."""

    def __init__(self, database: Database, settings: ContentSettings, clock: Clock, new_id: NewId) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._new_id = new_id
        self._most = Size(settings.conversation_items, settings.conversation_bytes)

    async def create(self, caller: Caller, body: ConversationBody) -> Conversation:
        """Begins one. Raises `InvalidInput`, `LimitExceeded`."""
        items = self._read(body.items or [])
        check_ids(items, "items")
        metadata = msgspec.json.encode(body.metadata or {})
        made = Conversation(
            id=self._new_id("conv"),
            organization_id=caller.organization_id,
            project_id=caller.project_id,
            key_id=caller.key_id,
            created_at=self._clock.now(),
            expires_at=self._clock.now() + timedelta(days=self._settings.conversation_days),
            metadata=metadata,
            size_bytes=empty_size(metadata).size_bytes,
        )
        async with self._database.transaction() as session:
            await lock_project(session, caller.project_id)
            await repository.add(session, made)
            return await self._put(session, made, _encoded(items))

    async def find(self, project_id: str, conversation_id: str) -> Conversation:
        """One of a project."""
        async with self._database.transaction() as session:
            return await self._found(session, project_id, conversation_id)

    async def set_metadata(self, project_id: str, conversation_id: str, metadata: dict[str, str]) -> Conversation:
        """Gives one other metadata."""
        encoded = msgspec.json.encode(metadata)
        async with self._database.transaction() as session:
            found = await self._found(session, project_id, conversation_id, is_held=True)
            size_bytes = found.size_bytes + len(encoded) - len(found.metadata)
            changed = msgspec.structs.replace(found, metadata=encoded, size_bytes=size_bytes)
            await repository.save(session, changed)
        return changed

    async def delete(self, project_id: str, conversation_id: str) -> None:
        """Forgets one and its items. A response that goes on with it meanwhile ends without it."""
        async with self._database.transaction() as session:
            if not (is_id(conversation_id) and await repository.remove(session, project_id, conversation_id)):
                raise _missing(conversation_id)

    async def add_items(self, project_id: str, conversation_id: str, written: list[dict[str, Any]]) -> list[Encoded]:
        """Puts items at its end. Raises `InvalidInput`, `LimitExceeded`."""
        if not written:
            raise InvalidInput("there are no items", param="items")
        items = self._read(written)
        async with self._database.transaction() as session:
            await lock_project(session, project_id)
            found = await self._found(session, project_id, conversation_id, is_held=True)
            check_ids(items, "items", await repository.taken(session, found.id, [item.id or "" for item in items]))
            encoded = _encoded(items)
            await self._put(session, found, encoded)
        return encoded

    async def page(self, project_id: str, conversation_id: str, request: PageRequest) -> list[Encoded]:
        """The items of a page, with one more where there are more. Raises `InvalidInput` for a cursor that is gone."""
        async with self._database.transaction() as session:
            found = await self._found(session, project_id, conversation_id)
            after = None
            if request.after is not None:
                after = await repository.position(session, found.id, request.after) if is_id(request.after) else None
                if after is None:
                    raise InvalidInput("no item of the conversation has this id", param="after")
            return await repository.page(
                session, found.id, after=after, most=request.limit + 1, is_ascending=request.is_ascending
            )

    async def item(self, project_id: str, conversation_id: str, item_id: str) -> bytes:
        """One item as JSON. Raises `NotFound`."""
        async with self._database.transaction() as session:
            found = await self._found(session, project_id, conversation_id)
            document = await repository.item(session, found.id, item_id) if is_id(item_id) else None
        if document is None:
            raise _missing_item(item_id)
        return document

    async def delete_item(self, project_id: str, conversation_id: str, item_id: str) -> Conversation:
        """Forgets an item; the conversation without it. Raises `NotFound`."""
        async with self._database.transaction() as session:
            found = await self._found(session, project_id, conversation_id, is_held=True)
            gone = await repository.remove_item(session, found.id, item_id) if is_id(item_id) else None
            if gone is None:
                raise _missing_item(item_id)
            changed = msgspec.structs.replace(
                found, item_count=found.item_count - 1, size_bytes=found.size_bytes - len(gone)
            )
            await repository.save(session, changed)
        return changed

    async def history(self, project_id: str, conversation_id: str, more: Sequence[Item]) -> list[Item]:
        """What a response goes on with, oldest first. Raises `InvalidInput` where its own items find no room."""
        async with self._database.transaction() as session:
            found = await self._found(session, project_id, conversation_id, param="conversation")
            await self._check(session, found, _encoded(more), "input")
            check_ids(more, "input", await repository.taken(session, found.id, [item.id or "" for item in more]))
            documents = await repository.items(session, found.id)
        return said_before([msgspec.json.decode(document) for document in documents], "conversation")

    async def append(
        self,
        session: AsyncSession,
        project_id: str,
        conversation_id: str,
        *,
        items: Sequence[Item],
        output: Sequence[dict[str, Any]],
    ) -> None:
        """Puts a response's turn at the end, in the transaction that stores it, behind what others put there meanwhile.

        Nothing is lost for want of room: how much comes in is bounded where responses begin.
        """
        found = await repository.find(session, project_id, conversation_id, self._clock.now(), is_held=True)
        if found is None:
            return  # deleted meanwhile
        documents = [*(document_of(item) for item in items), *output]
        taken = await repository.taken(session, found.id, [document["id"] for document in documents])
        new = apart(documents, taken, self._new_id)
        await self._save(session, found, [Encoded(document["id"], msgspec.json.encode(document)) for document in new])

    async def sweep(self) -> int:
        """Forgets what is too old or too much; how much there was."""
        async with self._database.transaction() as session:
            most = self._settings.project_conversations
            return await repository.trim(session, self._clock.now(), most, _TRIMMED_AT_ONCE)

    def _read(self, written: list[dict[str, Any]]) -> list[Item]:
        if len(written) > MAX_ITEMS_AT_ONCE:
            raise InvalidInput(f"up to {MAX_ITEMS_AT_ONCE} items are added at once", param="items")
        items = read_items(written, "items", self._new_id)
        for path, *_ in files_in(items, "items"):
            raise InvalidInput("files come in with a response, not by hand", param=path)
        return items

    async def _found(
        self,
        session: AsyncSession,
        project_id: str,
        conversation_id: str,
        *,
        is_held: bool = False,
        param: str = "conversation_id",
    ) -> Conversation:
        found = None
        if is_id(conversation_id):
            now = self._clock.now()
            found = await repository.find(session, project_id, conversation_id, now, is_held=is_held)
        if found is None:
            raise _missing(conversation_id, param)
        return found

    async def _put(self, session: AsyncSession, conversation: Conversation, items: Sequence[Encoded]) -> Conversation:
        """Adds items where there is room. The project is locked, and the conversation held or new."""
        await self._check(session, conversation, items, "items")
        return await self._save(session, conversation, items)

    async def _check(
        self, session: AsyncSession, conversation: Conversation, items: Sequence[Encoded], param: str
    ) -> None:
        more = size_of([item.document for item in items])
        check_room(Size(conversation.item_count, conversation.size_bytes), more, self._most, param)
        most = self._settings.project_conversation_bytes
        if await repository.project_bytes(session, conversation.project_id) + more.size_bytes > most:
            raise LimitExceeded(
                f"a project's conversations have at most {format_bytes(most)} together",
                code="conversation_quota_exceeded",
                hint="delete some of them",
                retry_after_seconds=_RETRY_SECONDS,
            )

    async def _save(self, session: AsyncSession, conversation: Conversation, items: Sequence[Encoded]) -> Conversation:
        more = size_of([item.document for item in items])
        await repository.add_items(session, conversation.id, conversation.next_position, items)
        changed = msgspec.structs.replace(
            conversation,
            next_position=conversation.next_position + more.items,
            item_count=conversation.item_count + more.items,
            size_bytes=conversation.size_bytes + more.size_bytes,
            expires_at=self._clock.now() + timedelta(days=self._settings.conversation_days),
        )
        await repository.save(session, changed)
        return changed


def _encoded(items: Sequence[Item]) -> list[Encoded]:
    return [Encoded(item.id or "", msgspec.json.encode(document_of(item))) for item in items]


def _missing(conversation_id: str, param: str = "conversation_id") -> NotFound:
    return NotFound(f"there is no conversation '{conversation_id[:128]}'", param=param)


def _missing_item(item_id: str) -> NotFound:
    return NotFound(f"the conversation has no item '{item_id[:128]}'", param="item_id")
