"""What the gateway refuses of a chat completion, as who asked for a response calls it. Pure."""

from typing import Any

import msgspec

_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "include",
}
"""What the caller calls the fields of a chat completion."""


class _Told(msgspec.Struct):
    error: dict[str, Any]


def in_own_words(refusal: bytes) -> bytes:
    """The gateway's error, with the caller's own names of fields."""
    try:
        told = msgspec.json.decode(refusal, type=_Told)
    except msgspec.DecodeError:
        return refusal
    param = told.error.get("param")
    if isinstance(param, str):
        name = next((name for name in _NAMES if param == name or param.startswith((f"{name}.", f"{name}["))), None)
        # Which item a message was, several may be: only the field is told.
        told.error["param"] = param if name is None else _NAMES[name]
    return msgspec.json.encode(told)
