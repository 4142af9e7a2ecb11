"""Tools in words, for models whose chat template knows of none. Pure.

The tools stand at the end of the system message, calls and results inside `<tool_call>` and `<tool_response>`, as many
open models were taught.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from cloudcrest.gateway.fields import Message, Tool, ToolCall, images_in, text_of

_ABOUT = """You can call these functions, one JSON description a line:
<tools>
{tools}
</tools>
{how}"""
_WHEN_USEFUL = """Where one of them helps, answer with a call of it and nothing else, as a JSON object:
<tool_call>
{"name": "…", "arguments": {…}}
</tool_call>
For several calls write several such blocks. Where none of them helps, answer in plain text."""
_NOW = """Answer with a call of one of them, and nothing else: a JSON object with its "name" and its "arguments"."""


def told(messages: Sequence[Message], tools: Sequence[Tool], *, is_forced: bool) -> list[Message]:
    """The messages with the tools and all calls and results in words. No tools: only what was called before."""
    said: list[Message] = []
    is_after_result = False
    for message in messages:
        in_words = _in_words(message)
        is_turn = said and said[-1].role == in_words.role == "user" and (is_after_result or message.role == "tool")
        if is_turn and not images_in(said[-1]) and not images_in(in_words):
            # Templates want user and assistant in turns.
            said[-1] = Message("user", f"{text_of(said[-1])}\n{text_of(in_words)}")
        else:
            said.append(in_words)
        is_after_result = message.role == "tool"
    if not tools:
        return said
    lines = "\n".join(msgspec.json.encode(tool).decode() for tool in tools)
    about = _ABOUT.format(tools=lines, how=_NOW if is_forced else _WHEN_USEFUL)
    if said and said[0].role in ("system", "developer"):
        return [msgspec.structs.replace(said[0], content=f"{text_of(said[0])}\n\n{about}"), *said[1:]]
    return [Message("system", about), *said]


def has_calls(messages: Sequence[Message]) -> bool:
    """Whether tools were called before."""
    return any(message.role == "tool" or message.tool_calls for message in messages)


def _in_words(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{text_of(message)}\n</tool_response>")
    if not message.tool_calls:
        return message
    blocks = [text_of(message), *map(_block, message.tool_calls)]
    return Message("assistant", "\n".join(filter(None, blocks)))


def _block(call: ToolCall) -> str:
    try:
        arguments: Any = msgspec.json.decode(call.function.arguments)
    except msgspec.DecodeError:
        arguments = call.function.arguments
    body = msgspec.json.encode({"name": call.function.name, "arguments": arguments}).decode()
    return f"<tool_call>\n{body}\n</tool_call>"
