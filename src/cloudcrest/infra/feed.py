"""The feed: how desired state and gateway snapshots travel, control plane → region → gateway.

A feed is a set of documents, each known by (kind, id), each with the latest revision only. A follower asks for what
changed since its cursor and waits (long poll) while there is nothing. The same protocol serves both links:

    GET /internal/v1/feed?cursor=<opaque>&wait_seconds=20        Authorization: Bearer <link token>
    200 {"cursor": "…", "reset": false, "documents": [{"kind": "key", "id": "key_…", "body": {…} | null}, …]}

`body: null` is a deletion. `reset: true` says that the page holds everything and what is not in it is gone. Pages are
bounded; a follower asks again at once while `has_more` is true.
"""

import sys
from collections.abc import Callable
from typing import Any

import msgspec

MAX_PAGE_DOCUMENTS = 5_000
_MAX_SHARED_CHARACTERS = 48  # an id, a name; not a digest, which stands once
_COUNTED = 1_000_000


class Document(msgspec.Struct, frozen=True):
    """One published thing. `body` is plain JSON data (a struct of the owning slice's api.py), None when deleted."""

    kind: str
    id: str
    body: dict[str, Any] | None


class FeedPage(msgspec.Struct, frozen=True):
    """What changed since a cursor. During a reset of several pages, only the first has `reset`."""

    cursor: str
    documents: list[Document]
    reset: bool = False
    has_more: bool = False


class FeedState(msgspec.Struct):
    """A follower's copy: the documents that exist, by kind and id, and the cursor they stand at."""

    cursor: str = ""
    documents: dict[str, dict[str, dict[str, Any]]] = {}

    def apply(self, page: FeedPage) -> set[str]:
        """Merges a page; returns the kinds that changed (every known kind after a reset)."""
        changed = {document.kind for document in page.documents}
        if page.reset:
            changed |= set(self.documents)
            self.documents = {}
        for document in page.documents:
            bodies = self.documents.setdefault(document.kind, {})
            if document.body is None:
                bodies.pop(document.id, None)
            else:
                bodies[the_one(document.id)] = shared(document.body)
        self.cursor = page.cursor
        return changed


def _itself(text: str) -> str:
    return text


def _lets_go() -> bool:
    """Whether an interned string goes with who has it. Python 3.12 keeps each for ever up to one of its later patches:
    what comes and goes in a feed would fill the memory.
    """
    return sys.getrefcount(sys.intern("".join(("let", " ", "go")))) < _COUNTED


the_one: Callable[[str], str] = sys.intern if _lets_go() else _itself
"""The string that stands for all equal ones."""


def shared(value: Any) -> Any:
    """The same JSON data, changed in place: its short strings are one object wherever they stand, as an id does in
    several documents.
    """
    if isinstance(value, str):
        return the_one(value) if len(value) <= _MAX_SHARED_CHARACTERS else value
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, str | dict | list):
                value[name] = shared(item)
    elif isinstance(value, list):
        value[:] = map(shared, value)
    return value
