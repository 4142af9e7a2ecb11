"""The models that /v1/messages serves, as Anthropic lists them: in pages, newest first."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from cloudcrest.gateway.snapshot import Snapshot
from cloudcrest.identity.api import KeyDocument
from cloudcrest.kernel.errors import InvalidInput

MAX_LIMIT = 1_000
DEFAULT_LIMIT = 20
MAX_FIELDS = 16


def model_object(snapshot: Snapshot, model: str) -> dict[str, Any]:
    """One model."""
    document = snapshot.routes[model].document
    created = datetime.fromtimestamp(document.created_at_unix_seconds, UTC)
    return {
        "type": "model",
        "id": model,
        "display_name": model,
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": document.context_tokens,
        "max_tokens": document.context_tokens,
    }


def model_list(snapshot: Snapshot, key: KeyDocument, query: bytes) -> bytes:
    """A page of the chat models this key may use. Raises `InvalidInput` for a query that asks for no page."""
    limit, after, before = _asked(query)
    routes = snapshot.routes
    names = [name for name in snapshot.visible_models(key) if routes[name].document.task == "chat"]
    names.sort(key=lambda name: -routes[name].document.created_at_unix_seconds)
    if before is not None:
        names = names[: _place(names, before, "before_id")]
        page, has_more = names[-limit:], len(names) > limit
    else:
        names = names[_place(names, after, "after_id") + 1 :] if after is not None else names
        page, has_more = names[:limit], len(names) > limit
    return msgspec.json.encode(
        {
            "data": [model_object(snapshot, name) for name in page],
            "has_more": has_more,
            "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
        }
    )


def _asked(query: bytes) -> tuple[int, str | None, str | None]:
    """(limit, after_id, before_id). What else is asked for, `beta=true` say, changes nothing here."""
    try:
        fields = dict(parse_qsl(query.decode("latin-1"), max_num_fields=MAX_FIELDS))
    except ValueError:
        raise InvalidInput(f"the query has more than {MAX_FIELDS} fields") from None
    limit = fields.get("limit", str(DEFAULT_LIMIT))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:5]) <= MAX_LIMIT):
        raise InvalidInput(f"is a number from 1 to {MAX_LIMIT}", param="limit")
    after, before = fields.get("after_id"), fields.get("before_id")
    if after is not None and before is not None:
        raise InvalidInput("give after_id or before_id, not both", param="after_id")
    return int(limit), after, before


def _place(names: list[str], name: str, field: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise InvalidInput(f"there is no model '{name[:100]}'", param=field) from None
