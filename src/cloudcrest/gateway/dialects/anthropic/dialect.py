"""Anthropic's endpoints as dialects: a body in, an outlet for the answer, errors in their shape."""

from functools import partial

import msgspec

from cloudcrest.gateway.dialects.anthropic.answer import About
from cloudcrest.gateway.dialects.anthropic.errors import error_document, status_of
from cloudcrest.gateway.dialects.anthropic.fields import AdaptiveThinking
from cloudcrest.gateway.dialects.anthropic.request import canonical, decode, decode_count
from cloudcrest.gateway.dialects.anthropic.stream import MessageOutlet
from cloudcrest.gateway.marks import without_marks
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.request import Request
from cloudcrest.gateway.validate import parse
from cloudcrest.kernel.errors import CloudcrestError

CHAT = "/v1/chat/completions"


class _Anthropic:
    """What the endpoints have in common."""

    def error(self, error: CloudcrestError, request_id: str) -> bytes:
        return error_document(error, request_id)

    def status(self, error: CloudcrestError) -> int:
        return status_of(error)

    def head(self, request_id: str) -> bytes:
        return b"request-id: %b\r\n" % request_id.encode()


class Messages(_Anthropic):
    """POST /v1/messages"""

    def read(self, request: Request) -> Parsed:
        body = decode(request.body)
        chat = canonical(body)
        last = chat["messages"][-1]
        parsed = parse(CHAT, msgspec.json.encode(chat))
        parsed.goes_on = last["role"] == "assistant"
        parsed.has_marks = True
        thinking = body.thinking if isinstance(body.thinking, AdaptiveThinking) else None
        about = About(
            model=body.model,
            stop_sequences=tuple(body.stop_sequences or ()),
            shows_thinking=thinking is not None,
            omits_thought=thinking is not None and thinking.display == "omitted",
            begun=last["content"] or "" if parsed.goes_on else "",
        )
        parsed.outlet = partial(MessageOutlet, about=about)
        return parsed


class CountTokens(_Anthropic):
    """POST /v1/messages/count_tokens: the prompt alone, which no answer follows."""

    def read(self, request: Request) -> Parsed:
        return without_marks(parse(CHAT, msgspec.json.encode(canonical(decode_count(request.body)))))
