"""What a conversation holds: items as they are shown and asked again, each with an id of its own; its room. Pure."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from cloudcrest.content.responses.fields import Item, MessageItem, Metadata, OutputText, ReasoningItem
from cloudcrest.content.responses.request import PREFIXES
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.units import format_bytes

MAX_ITEMS_AT_ONCE = 20
_ID = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_OVERHEAD_BYTES = 512
"""What a conversation counts for without its items, so that the empty ones are bounded too."""

NewItems = list[dict[str, Any]]


class ConversationBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/conversations."""

    items: list[dict[str, Any]] | None = None
    metadata: Metadata | None = None


class ConversationChange(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/conversations/{id}: what it has instead."""

    metadata: Metadata | None


class ItemsBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/conversations/{id}/items."""

    items: list[dict[str, Any]]


class Size(msgspec.Struct, frozen=True):
    """What there is, or what there may be at most."""

    items: int
    size_bytes: int


def is_id(text: str) -> bool:
    """Whether it can be one: it goes into paths."""
    return _ID.fullmatch(text) is not None


def ids_of(items: Sequence[Item], output: Sequence[dict[str, Any]]) -> list[str]:
    """What a response's items are found by. Callers may give theirs any id: others than these nobody can refer to."""
    given = [*(item.id or "" for item in items), *(str(document["id"]) for document in output)]
    return [each for each in given if is_id(each)]


def document_of(item: Item) -> dict[str, Any]:
    """An item with the fields that OpenAI's always have."""
    document: dict[str, Any] = msgspec.to_builtins(item)
    if isinstance(item, ReasoningItem):
        document = {"summary": [], **document}
    if isinstance(item, MessageItem) and isinstance(item.content, list):
        said: dict[str, Any] = {"annotations": [], "logprobs": []}
        parts = zip(item.content, document["content"], strict=True)
        document["content"] = [{**said, **shown} if isinstance(part, OutputText) else shown for part, shown in parts]
    return document


def check_ids(items: Sequence[Item], path: str, taken: set[str] | frozenset[str] = frozenset()) -> None:
    """Raises `InvalidInput` where items cannot be told apart by their ids, or from those that are there."""
    seen = set(taken)
    for index, item in enumerate(items):
        given, param = item.id or "", f"{path}[{index}].id"
        if not is_id(given):
            raise InvalidInput("an item's id has up to 128 letters, digits, '_' and '-'", param=param)
        if given in seen:
            raise InvalidInput(
                f"the item '{given}' is there already",
                param=param,
                code="duplicate_item",
                hint="send what is new only, or leave its id out",
            )
        seen.add(given)


def apart(documents: Sequence[dict[str, Any]], taken: set[str], new_id: Callable[[str], str]) -> NewItems:
    """The items of a response that has ended: one whose id was taken meanwhile gets a new one, so that none is lost."""
    return [
        {**document, "id": new_id(PREFIXES[document["type"]])} if document["id"] in taken else document
        for document in documents
    ]


def size_of(encoded: Sequence[bytes]) -> Size:
    """What these items count for."""
    return Size(len(encoded), sum(len(item) for item in encoded))


def empty_size(metadata: bytes) -> Size:
    """What a conversation counts for without items."""
    return Size(0, _OVERHEAD_BYTES + len(metadata))


def check_room(there: Size, more: Size, most: Size, param: str) -> None:
    """Raises `InvalidInput` where a conversation would become larger than it may be."""
    hint = "delete items, or begin a new conversation"
    if there.items + more.items > most.items:
        raise InvalidInput(
            f"a conversation has at most {most.items} items", param=param, code="conversation_full", hint=hint
        )
    if there.size_bytes + more.size_bytes > most.size_bytes:
        raise InvalidInput(
            f"a conversation has at most {format_bytes(most.size_bytes)}",
            param=param,
            code="conversation_full",
            hint=hint,
        )
