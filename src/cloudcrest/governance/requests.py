"""All that a request says, under a policy: every text of its fields, wherever it stands. Pure.

Not looked at are names and ids, which no model reads as text, pictures and sounds. Token numbers cannot be read here,
so a request that is made of them is refused where anything is to be looked for.
"""

from collections.abc import Generator, Mapping
from typing import Any

from cloudcrest.governance.detectors.hits import Detector, Hit
from cloudcrest.governance.guard import Findings, Guard, Placeholders
from cloudcrest.governance.policy import Actions
from cloudcrest.kernel.errors import InvalidInput, TooLarge
from cloudcrest.kernel.units import MIB

MAX_CHARACTERS = 4 * MIB
"""Of one request: what is longer is refused where it is to be looked through."""
STEP_CHARACTERS = 4096
"""So many are looked at in one go: some milliseconds at worst."""
_NO_TEXT_FIELDS = frozenset(("model", "user", "metadata"))
_NO_TEXT_KEYS = frozenset(("role", "type", "id", "tool_call_id", "name", "image_url", "input_audio"))
_JSON_KEYS = frozenset(("arguments",))

Steps = Generator[None, None, dict[str, Any]]
"""Looks at a step at a time; returns the fields that have changed."""


class Screen:
    """One request's. `findings` and `placeholders` are what its answer goes on from."""

    def __init__(self, actions: Actions, detectors: tuple[Detector, ...]) -> None:
        self._actions = actions
        self._detectors = detectors
        self._characters = 0
        self._since_step = 0
        self.findings = Findings()
        self.placeholders = Placeholders()

    def steps(self, fields: Mapping[str, Any]) -> Steps:
        """Raises `InvalidInput` that names what is blocked and where, never the value; `TooLarge`."""
        changed: dict[str, Any] = {}
        for name, value in fields.items():
            if name in _NO_TEXT_FIELDS:
                continue
            if name in ("prompt", "input") and _has_tokens(value):
                raise InvalidInput(
                    "this project has guardrails, which read text and no token numbers",
                    param=name,
                    code="unsupported_content",
                    hint="send text",
                )
            new = yield from self._value(value, name, "")
            if new != value:
                changed[name] = new
        return changed

    def _value(self, value: Any, path: str, key: str) -> Generator[None, None, Any]:
        if isinstance(value, str):
            return (yield from self._text(value, path, is_json=key in _JSON_KEYS))
        if isinstance(value, list):
            items = []
            for index, item in enumerate(value):
                items.append((yield from self._value(item, f"{path}[{index}]", key)))
            return items
        if isinstance(value, dict):
            fields = {}
            for name, item in value.items():
                fields[name] = item
                if name not in _NO_TEXT_KEYS or not isinstance(item, str | dict) or "properties" in path:
                    fields[name] = yield from self._value(item, f"{path}.{name}", name)
            return fields
        return value

    def _text(self, text: str, path: str, *, is_json: bool) -> Generator[None, None, str]:
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS:
            raise TooLarge(
                f"this project has guardrails, which look through {MAX_CHARACTERS} characters of a request at most"
            )
        guard = Guard(self._actions, self._detectors, self.placeholders, self.findings, is_json=is_json)
        pieces: list[str] = []
        for start in range(0, len(text), STEP_CHARACTERS):
            piece = text[start : start + STEP_CHARACTERS]
            pieces.append(guard.feed(piece))
            self._since_step += len(piece)
            if self._since_step >= STEP_CHARACTERS:
                self._since_step = 0
                yield
        pieces.append(guard.end())
        if self.findings.blocked is not None:
            raise blocked(self.findings.blocked, path)
        return "".join(pieces)


def blocked(hit: Hit, path: str) -> InvalidInput:
    """The refusal of a request. It names what was found, and not the value."""
    return InvalidInput(
        f"the request holds what this project's guardrails block: {hit.kind} ({hit.what})",
        code="content_blocked",
        param=path,
        hint="leave it out; an admin of the project sets its guardrails",
    )


def _has_tokens(value: Any) -> bool:
    return isinstance(value, list) and any(not isinstance(item, str | dict) for item in value)
