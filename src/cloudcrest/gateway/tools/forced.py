"""A call that has to be made: the schema that a grammar holds the model to, and the call read out of what it writes.

The model writes `{"name": …, "arguments": {…}}` and nothing else. Pure.
"""

import re
from collections.abc import Sequence
from typing import Any

from cloudcrest.gateway.fields import JsonSchemaBody, JsonSchemaFormat, Tool

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"arguments"\s*:\s*')
_END = " \t\r\n}"
"""What may stand behind the arguments."""
_DEFINITIONS = ("$defs", "definitions")


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """The JSON schema of a call of one of the tools. What each defines stands at the root, under the tool's name."""
    definitions: dict[str, Any] = {}
    forms = [_form(tool, definitions) for tool in tools]
    schema = forms[0] if len(forms) == 1 else {"anyOf": forms}
    return {**schema, "$defs": definitions} if definitions else schema


def _form(tool: Tool, definitions: dict[str, Any]) -> dict[str, Any]:
    name = tool.function.name
    parameters = dict(tool.function.parameters or {"type": "object"})
    for word in _DEFINITIONS:
        for key, value in dict(parameters.pop(word, None) or {}).items():
            definitions[f"{name}.{key}"] = _renamed(value, name)
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": _renamed(parameters, name)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _renamed(schema: Any, name: str) -> Any:
    """The schema with references to definitions as they are called at the root. Its depth was checked before."""
    if isinstance(schema, list):
        return [_renamed(item, name) for item in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {key: _renamed(value, name) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        for word in _DEFINITIONS:
            if reference.startswith(f"#/{word}/"):
                renamed["$ref"] = f"#/$defs/{name}.{reference[len(word) + 3 :]}"
    return renamed


class ForcedCall:
    """Reads the call as it is written: `name` once it is there, then its arguments in pieces."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._held = ""
        self._has_begun = False

    def feed(self, text: str) -> str:
        """What `text` adds to the arguments; the object's own closing brace is kept back."""
        self._held += text
        if self.name is None:
            head = _HEAD.match(self._held)
            if head is None:
                return ""
            self.name, self._held = head[1], self._held[head.end() :]
        if not self._has_begun:
            self._held = self._held.lstrip()
            self._has_begun = bool(self._held)
        at = len(self._held.rstrip(_END))
        arguments, self._held = self._held[:at], self._held[at:]
        return arguments

    def end(self) -> str:
        """The rest of the arguments."""
        held, self._held = self._held.rstrip(), ""
        return held[:-1].rstrip() if held.endswith("}") else held


def forced_tools(tools: Sequence[Tool], name: str | None) -> list[Tool]:
    """Those of the tools that may be called."""
    return [tool for tool in tools if name in (None, tool.function.name)]


def response_format(tools: Sequence[Tool]) -> JsonSchemaFormat:
    """What holds an engine to a call of one of the tools."""
    return JsonSchemaFormat(JsonSchemaBody(name="call", json_schema=call_schema(tools)))
