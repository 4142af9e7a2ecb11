"""Chats with nothing in them that is to be looked at twice, read in one pass: most are. Pure.

Their texts are held to be valid JSON and UTF-8, and then pass as they were written. All else is written anew, so that
an engine gets each field once, as it was checked. What is no such chat, or is wrong, is left to `validate.py`.
"""

from typing import Final

import msgspec
from msgspec.structs import replace

from cloudcrest.gateway.fields import PlainChat, StreamOptions
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.serving.api import RouteDocument

CHAT_PATH: Final = "/v1/chat/completions"
_QUOTE: Final = ord('"')
_WITH_USAGE: Final = StreamOptions(include_usage=True)
_decode: Final = msgspec.json.Decoder(PlainChat).decode
_encode: Final = msgspec.json.Encoder().encode


def read_plain(data: bytes) -> Parsed | None:
    """The chat; None where it is to be read in full."""
    try:
        chat = _decode(data)
        if not data.isascii():
            data.decode()  # texts that nobody takes apart are not looked at for this
    except (ValueError, RecursionError):
        return None
    for message in chat.messages:
        if memoryview(message.content)[0] != _QUOTE:
            return None
    is_stream, max_tokens = chat.stream is True, chat.max_tokens
    if chat.max_completion_tokens is not None:
        if max_tokens is not None:
            return None
        max_tokens = chat.max_completion_tokens
    wants_usage = False
    if chat.stream_options is not None:
        if not is_stream:
            return None
        wants_usage = chat.stream_options.include_usage is True
    parsed = Parsed(CHAT_PATH, len(data), plain=chat, is_stream=is_stream, max_tokens=max_tokens)
    parsed.wants_usage = wants_usage
    return parsed


def written_for(chat: PlainChat, parsed: Parsed, route: RouteDocument) -> bytes:
    """The body that this route's engine gets, with the model's alias, limits and usage spliced in."""
    engine = route.engine
    max_tokens = parsed.max_tokens
    max_completion_tokens: int | None = None
    if engine == "upstream":  # providers differ in which of the two names they take: the caller's own stays
        if chat.max_completion_tokens is not None:
            max_completion_tokens = max_tokens
            max_tokens = None
    elif max_tokens is None and engine == "llamacpp":
        max_tokens = route.context_tokens  # without one it would go on for as long as it likes
    return _encode(
        replace(
            chat,
            model=route.model_name,
            max_tokens=max_tokens,
            max_completion_tokens=max_completion_tokens,
            stream_options=_WITH_USAGE if parsed.is_stream else None,
            user=None,
        )
    )
