"""What becomes of parameters that nobody here honours, in projects with `strict: false`: dropped, and said so. Pure.

Elsewhere each is refused by its name. Wrong values of what is honoured are refused everywhere.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from cloudcrest.gateway.parsed import Parsed
from cloudcrest.infra.forms import without
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.units import MIB

MAX_DROPPED = 32
MAX_READ_BYTES = 32 * MIB
"""Of JSON that is refused and read again, together: each reading is whole, and meanwhile nobody else is served."""
DROPPABLE = frozenset(("unknown_parameter", "unsupported_parameter", "unsupported_value"))
"""Codes of refusals that name what is not honoured."""
_MAX_SHOWN = 100
_UNPRINTABLE = re.compile(r"[^ -~]")
_SEGMENT = re.compile(r"[^.\[\]]+")

Read = Callable[[bytes], Parsed]


def read_leniently(read: Read, body: bytes, form_type: str = "") -> tuple[Parsed, list[str]]:
    """The body without what is not honoured, and the paths of that. Raises `InvalidInput` for everything else.

    `form_type`: the content type of a body that is a form; else it is JSON.
    """
    dropped: list[str] = []
    read_bytes = 0
    while True:
        try:
            return read(body), dropped
        except InvalidInput as error:
            path = _droppable(error, dropped)
            read_bytes += 0 if form_type else len(body)
            if read_bytes > MAX_READ_BYTES:
                raise
            try:
                body = without(form_type, body, path) if form_type else _without(body, path)
            except (LookupError, TypeError, ValueError, AttributeError):  # a name with dots or brackets in it
                raise error from None
            dropped.append(path)


def fit_leniently(fit: Callable[[Parsed], Parsed], parsed: Parsed) -> tuple[Parsed, list[str]]:
    """The same for what a route's engine or model does not honour: whole fields of the body."""
    dropped: list[str] = []
    while True:
        try:
            return fit(parsed), dropped
        except InvalidInput as error:
            name = _droppable(error, dropped)
            if name not in parsed.fields:
                raise
            fields = {other: raw for other, raw in parsed.fields.items() if other != name}
            changes: dict[str, Any] = {name: None}
            parsed = parsed.rewritten(msgspec.structs.replace(parsed.body, **changes), fields)
            dropped.append(name)


def ignored_header(paths: list[str]) -> bytes:
    """The line that says what was dropped."""
    # The names are the caller's own: nothing of them may end the line.
    text = _UNPRINTABLE.sub("?", ", ".join(path[:_MAX_SHOWN] for path in paths))
    return f"x-cloudcrest-ignored: {text}\r\n".encode()


def _droppable(error: InvalidInput, dropped: list[str]) -> str:
    if error.code not in DROPPABLE or not error.param or error.param in dropped or len(dropped) >= MAX_DROPPED:
        raise error
    return error.param


def _without(body: bytes, path: str) -> bytes:
    """Nested JSON without what is at a path."""
    whole = value = msgspec.json.decode(body)
    *parents, last = _SEGMENT.findall(path)
    for step in parents:
        value = value[int(step)] if isinstance(value, list) else value[step]
    value.pop(last)
    return msgspec.json.encode(whole)
