"""DashScope's native endpoints: `{model, input, parameters}` to the canonical request, and its errors.

Whether the answer is a stream is said by a header, `X-DashScope-SSE: enable` or `Accept: text/event-stream`; other
`X-DashScope-` headers that ask for something are refused where it is not done.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from cloudcrest.gateway.bodies import decode_json
from cloudcrest.gateway.dialects.api import Dialect
from cloudcrest.gateway.dialects.dashscope.answer import (
    EmbeddingOutlet,
    GenerationOutlet,
    RerankingOutlet,
    error_document,
    error_status,
)
from cloudcrest.gateway.dialects.dashscope.fields import (
    EmbeddingBody,
    GenerationBody,
    Message,
    Part,
    RerankBody,
)
from cloudcrest.gateway.outlet import Chain
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.request import Request
from cloudcrest.gateway.rerank import RERANK_PATH
from cloudcrest.gateway.validate import parse
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, NotFound

ROOT = "/api/v1/services/"
TEXT_PATH = ROOT + "aigc/text-generation/generation"
MULTIMODAL_PATH = ROOT + "aigc/multimodal-generation/generation"
EMBEDDING_PATH = ROOT + "embeddings/text-embedding/text-embedding"
RERANK_SERVICE_PATH = ROOT + "rerank/text-rerank/text-rerank"

_HEADERS = b"x-dashscope-"
_HARMLESS = frozenset(
    _HEADERS + name
    for name in (b"sse", b"workspace", b"user-agent", b"sdk-client", b"sdk-session-id", b"calling-type", b"client-ip")
)
"""What they say changes nothing of an answer here."""
_OFF = frozenset((b"", b"disable", b"disabled", b"false"))
_INPUT_FIELDS = frozenset(("messages", "prompt", "texts", "query", "documents"))
_FIRST = re.compile(r"[^.\[]*")
_AUDIO = re.compile(r"data:audio/(?P<format>[a-z0-9.+-]{1,32});base64,(?P<data>.*)", re.DOTALL)

_generation: msgspec.json.Decoder[GenerationBody] = msgspec.json.Decoder(GenerationBody)
_embedding: msgspec.json.Decoder[EmbeddingBody] = msgspec.json.Decoder(EmbeddingBody)
_rerank: msgspec.json.Decoder[RerankBody] = msgspec.json.Decoder(RerankBody)


class _DashScope:
    """What its endpoints have in common. `renamed`: canonical fields that its callers write otherwise."""

    def __init__(self, renamed: Callable[[str], str]) -> None:
        self._renamed = renamed

    def error(self, error: CloudcrestError, request_id: str) -> bytes:
        return error_document(in_its_words(error, self._renamed), request_id)

    def status(self, error: CloudcrestError) -> int:
        return error_status(error)

    def head(self, request_id: str) -> bytes:  # noqa: ARG002  # its id is in the body
        return b""

    def canonical(self, path: str, body: dict[str, Any]) -> Parsed:
        """The checked canonical request. Raises `InvalidInput` in the words of the caller."""
        fields = {name: value for name, value in body.items() if value is not None}
        try:
            return parse(path, msgspec.json.encode(fields))
        except InvalidInput as error:
            raise in_its_words(error, self._renamed) from None


class Elsewhere(_DashScope):
    """Services that are not here: so said in DashScope's shape."""

    def __init__(self) -> None:
        super().__init__(lambda path: path)

    def read(self, request: Request) -> Parsed:
        raise NotFound(f"there is no {request.path} here")


class Generation(_DashScope):
    """Text and multimodal generation; the latter's content comes in parts, out as in."""

    def __init__(self, *, is_multimodal: bool) -> None:
        super().__init__(_generation_path)
        self._is_multimodal = is_multimodal

    def read(self, request: Request) -> Parsed:
        is_stream = check_headers(request)
        body, _ = decode_json(_generation, request.body)
        asked = body.parameters
        if asked.stream is not None and asked.stream != is_stream:
            raise InvalidInput("a stream is asked for by a header: X-DashScope-SSE: enable", param="parameters.stream")
        is_text = asked.result_format == "text" or (asked.result_format is None and not self._is_multimodal)
        if (asked.tools or (asked.n or 1) != 1 or asked.logprobs) and is_text:
            if asked.result_format == "text":
                raise InvalidInput("tools, n and logprobs go with 'message'", param="parameters.result_format")
            is_text = False
        parsed = self.canonical(
            "/v1/chat/completions",
            {
                "model": body.model,
                "messages": _messages(body),
                "stream": is_stream or None,
                "stream_options": {"include_usage": True} if is_stream else None,
                **{name: getattr(asked, name) for name in _SAME},
            },
        )
        input_tokens = parsed.estimated_input_tokens()
        is_incremental = asked.incremental_output is True
        parsed.outlet = lambda request_id: GenerationOutlet(
            request_id,
            is_text=is_text,
            is_multimodal=self._is_multimodal,
            is_incremental=is_incremental,
            estimated_input_tokens=input_tokens,
        )
        return parsed


_SAME = (
    *("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "presence_penalty", "seed", "stop", "tools"),
    *("tool_choice", "parallel_tool_calls", "response_format", "n", "logprobs", "top_logprobs"),
    "enable_thinking",
)
"""Parameters that the canonical request has under the same names."""


class Embedding(_DashScope):
    """Text embedding."""

    def __init__(self) -> None:
        super().__init__(lambda path: "input.texts" + path.removeprefix("input") if path.startswith("input") else path)

    def read(self, request: Request) -> Parsed:
        check_headers(request, streams=False)
        body, _ = decode_json(_embedding, request.body)
        parsed = self.canonical("/v1/embeddings", {"model": body.model, "input": body.input.texts})
        parsed.outlet = EmbeddingOutlet
        return parsed


class Reranking(_DashScope):
    """Text rerank."""

    def __init__(self) -> None:
        super().__init__(_generation_path)

    def read(self, request: Request) -> Parsed:
        check_headers(request, streams=False)
        body, _ = decode_json(_rerank, request.body)
        asked = body.parameters
        parsed = self.canonical(
            RERANK_PATH,
            {
                "model": body.model,
                "query": body.input.query,
                "documents": body.input.documents,
                "top_n": asked.top_n,
                "return_documents": asked.return_documents,
            },
        )
        ranking = parsed.outlet
        assert ranking is not None  # noqa: S101 - a ranking always has one
        parsed.outlet = lambda request_id: Chain([ranking(request_id), RerankingOutlet(request_id)])
        return parsed


def check_headers(request: Request, *, streams: bool = True) -> bool:
    """Whether a stream is asked for. Raises `InvalidInput` for headers that ask for what is not done."""
    is_stream = False
    for name, value in request.headers:
        if name == b"accept":
            is_stream = is_stream or b"text/event-stream" in value.lower()
        elif name.startswith(_HEADERS):
            word = value.strip().lower()
            if name == b"x-dashscope-sse":
                is_stream = is_stream or word == b"enable"
            elif name not in _HARMLESS and word not in _OFF:
                shown = name.decode("latin-1")
                raise InvalidInput(f"the header {shown} asks for something that is not done here", param=shown)
    if is_stream and not streams:
        raise InvalidInput("this endpoint has no streams", param="X-DashScope-SSE")
    return is_stream


def in_its_words(error: CloudcrestError, renamed: Callable[[str], str]) -> CloudcrestError:
    """The error with its field called as the caller did, in its message too: that is all that is told of it."""
    if error.param is None:
        return error
    is_own = error.param.startswith(("input.", "parameters."))
    path = error.param if is_own else renamed(error.param)
    if not is_own and f"'{error.param}'" in error.message:
        error.message = error.message.replace(f"'{error.param}'", f"'{path}'", 1)
    elif path not in error.message and path != "model":
        error.message = f"'{path}': {error.message}"
    error.param = path
    error.args = (error.message,)
    return error


def _generation_path(path: str) -> str:
    first = _FIRST.match(path)
    name = first[0] if first else path
    if name in ("model", "") or name.lower().startswith("x-dashscope"):
        return path
    return f"input.{path}" if name in _INPUT_FIELDS else f"parameters.{path}"


def _messages(body: GenerationBody) -> list[dict[str, Any]]:
    given = body.input
    if (given.messages is None) == (given.prompt is None):
        raise InvalidInput("give messages or prompt, one of them", param="input.messages")
    if given.messages is None:
        return [{"role": "user", "content": given.prompt}]
    messages = []
    unanswered: list[tuple[str, str]] = []
    for index, message in enumerate(given.messages):
        path = f"input.messages[{index}]"
        if message.role == "assistant":
            unanswered = [(call.id or f"call_{index}_{at}", call.function.name) for at, call in _calls(message)]
        messages.append(_message(message, unanswered, index, path))
    return messages


def _calls(message: Message) -> list[tuple[int, Any]]:
    return list(enumerate(message.tool_calls or ()))


def _message(message: Message, unanswered: list[tuple[str, str]], index: int, path: str) -> dict[str, Any]:
    """One canonical message. `unanswered`: id and name of the calls that results are still to come for.

    DashScope's callers may leave out a result's id: it is the first one's of that name.
    """
    fields: dict[str, Any] = {
        "role": message.role,
        "content": message.content,
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning_content or None,
    }
    if isinstance(message.content, list):
        fields["content"] = [_part(part, f"{path}.content[{at}]") for at, part in enumerate(message.content)]
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id or f"call_{index}_{at}",
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for at, call in _calls(message)
        ]
    if message.role == "tool":
        known = next(
            (
                call
                for call in unanswered
                if (call[0] == message.tool_call_id if message.tool_call_id else message.name in (None, call[1]))
            ),
            None,
        )
        if known is not None:
            unanswered.remove(known)
            fields["tool_call_id"] = known[0]
    return {name: value for name, value in fields.items() if value is not None}


def _part(part: Part, path: str) -> dict[str, Any]:
    """A canonical part. Raises `InvalidInput` for one that is none, or several."""
    if sum(value is not None for value in (part.text, part.image, part.audio)) != 1:
        raise InvalidInput("has one of text, image and audio", param=path)
    mark = {"cache_control": part.cache_control} if part.cache_control is not None else {}
    if part.text is not None:
        return {"type": "text", "text": part.text, **mark}
    if part.image is not None:
        return {"type": "image_url", "image_url": {"url": part.image}, **mark}
    audio = _AUDIO.fullmatch(part.audio or "")
    if audio is None:
        raise InvalidInput("audio comes as a data: URI (data:audio/wav;base64,…)", param=f"{path}.audio")
    return {"type": "input_audio", "input_audio": {"data": audio["data"], "format": audio["format"]}}


DASHSCOPE: dict[str, Dialect] = {
    TEXT_PATH: Generation(is_multimodal=False),
    MULTIMODAL_PATH: Generation(is_multimodal=True),
    EMBEDDING_PATH: Embedding(),
    RERANK_SERVICE_PATH: Reranking(),
}
