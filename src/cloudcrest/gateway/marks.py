"""Marks of what a provider is to keep of a prompt, taken out for engines that keep prompts by themselves. Pure."""

from collections.abc import Iterable
from typing import Any

import msgspec

from cloudcrest.gateway.fields import ChatBody, Message, Tool
from cloudcrest.gateway.parsed import Parsed

_MARK = "cache_control"
_WRITTEN = b'"cache_control"'
_KINDS: dict[str, Any] = {"messages": list[Message], "tools": list[Tool]}


def without_marks(parsed: Parsed, among: Iterable[str] = tuple(_KINDS)) -> Parsed:
    """The same request with plain texts in place of marked parts: what it would be had the caller marked nothing.

    `among`: the fields in which marks are taken out, of "messages" and "tools".
    """
    marked = [name for name in among if _WRITTEN in parsed.fields.get(name, b"")]
    if not marked or not isinstance(parsed.body, ChatBody):
        return parsed
    # As it was written but for the marks: structs would leave out what engines may want to see.
    plain = {name: [_plain(each) for each in msgspec.json.decode(parsed.fields[name])] for name in marked}
    read = {name: msgspec.convert(value, _KINDS[name]) for name, value in plain.items()}
    fields = parsed.fields | {name: msgspec.json.encode(value) for name, value in plain.items()}
    return parsed.rewritten(msgspec.structs.replace(parsed.body, **read), fields)


def _plain(said: dict[str, Any]) -> dict[str, Any]:
    """A message or a tool."""
    said = {name: value for name, value in said.items() if name != _MARK}
    content = said.get("content")
    if not isinstance(content, list):
        return said
    if all(part["type"] == "text" for part in content):
        return {**said, "content": "".join(part["text"] for part in content)}
    return {**said, "content": [{name: part[name] for name in part if name != _MARK} for part in content]}
