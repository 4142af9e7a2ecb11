"""Answers and errors as DashScope writes them. Pure.

An event of a stream is `id:`, `event:result`, a comment with the HTTP status, and `data:` with the same document that a
whole answer is. `finish_reason` is the word "null" until the last event. Each event says usage: until the engine's own
count is there, which is with the last one, output counts the events so far and input is estimated from its size.
"""

from typing import Any

import msgspec

from cloudcrest.gateway.admit import GROWTH_CODE, OverLimit
from cloudcrest.gateway.engine_words import UsageBody
from cloudcrest.gateway.sse import event_data, to_usage
from cloudcrest.kernel.errors import CloudcrestError
from cloudcrest.kernel.usage import Usage

_encode = msgspec.json.encode
RUNNING = "null"
_DONE = b"[DONE]"

_CODES: dict[int, str] = {
    401: "InvalidApiKey",
    403: "AccessDenied",
    404: "ModelNotFound",
    405: "UnsupportedOperation",
    408: "RequestTimeOut",
    413: "BadRequest.TooLarge",
    429: "Throttling.RateQuota",
    502: "InternalError.Algo",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}
_CODES_BY_CODE: dict[str, str] = {
    "insufficient_quota": "Arrearage",
    GROWTH_CODE: "Throttling.BurstRate",
    "content_blocked": "DataInspectionFailed",
}


class _Function(msgspec.Struct, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, omit_defaults=True):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Logprobs(msgspec.Struct):
    content: list[Any] | None = None


class _Message(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Chat(msgspec.Struct):
    """An answer of the canonical chat, or a chunk of one."""

    choices: list[_Choice] = []
    usage: UsageBody | None = None


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float]


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: UsageBody = msgspec.field(default_factory=UsageBody)


class _Ranking(msgspec.Struct):
    results: list[dict[str, Any]]
    usage: UsageBody = msgspec.field(default_factory=UsageBody)
    meta: dict[str, Any] = {}


_chat: msgspec.json.Decoder[_Chat] = msgspec.json.Decoder(_Chat)
_vectors: msgspec.json.Decoder[_Vectors] = msgspec.json.Decoder(_Vectors)
_ranking: msgspec.json.Decoder[_Ranking] = msgspec.json.Decoder(_Ranking)
_UNREADABLE = CloudcrestError("the model's engine gave an answer that cannot be read")


def error_code(error: CloudcrestError) -> str:
    """What DashScope calls it."""
    if isinstance(error, OverLimit) and error.is_of_tokens:
        return "Throttling.AllocationQuota"
    return (
        _CODES_BY_CODE.get(error.code)
        or _CODES.get(error.status)
        or ("InvalidParameter" if error.status < 500 else "InternalError")
    )


def error_status(error: CloudcrestError) -> int:
    """Its HTTP status there: an account without credit is a wrong request, which clients do not repeat."""
    return 400 if error.code == "insufficient_quota" else error.status


def error_document(error: CloudcrestError, request_id: str) -> bytes:
    """The JSON document of an error."""
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return _encode({"code": error_code(error), "message": message, "request_id": request_id})


class _Whole:
    """What endpoints without streams have in common."""

    is_over = False

    def __init__(self, request_id: str) -> None:
        self._id = request_id

    def events(self, events: bytes) -> bytes:
        """There are none."""
        return events

    def end(self) -> bytes:
        return b""

    def error(self, error: CloudcrestError) -> bytes:
        return error_document(error, self._id)


class EmbeddingOutlet(_Whole):
    """A text embedding's answer."""

    def answer(self, body: bytes) -> bytes:
        try:
            answer = _vectors.decode(body)
        except (msgspec.DecodeError, RecursionError):
            return error_document(_UNREADABLE, self._id)
        vectors = [{"embedding": vector.embedding, "text_index": vector.index} for vector in answer.data]
        usage = {"total_tokens": to_usage(answer.usage).input_tokens}
        return _encode({"output": {"embeddings": vectors}, "usage": usage, "request_id": self._id})


class RerankingOutlet(_Whole):
    """A ranking's answer, made of ours. `output.method` says where it is by embeddings."""

    def answer(self, body: bytes) -> bytes:
        try:
            answer = _ranking.decode(body)
        except (msgspec.DecodeError, RecursionError):
            return error_document(_UNREADABLE, self._id)
        output = {"results": answer.results, "method": answer.meta.get("method")}
        usage = {"total_tokens": to_usage(answer.usage).input_tokens}
        return _encode({"output": output, "usage": usage, "request_id": self._id})


class _Told:
    """What was said of one choice so far."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.tool_calls: dict[int, _ToolCall] = {}
        self.logprobs: list[Any] = []
        self.finish_reason: str | None = None

    def add(self, said: _Message, logprobs: _Logprobs | None) -> None:
        """Takes in what a chunk says."""
        self.content.append(said.content or said.refusal or "")
        self.reasoning.append(said.reasoning_content or "")
        self.logprobs += (logprobs.content if logprobs is not None else None) or []
        for call in said.tool_calls or ():
            known = self.tool_calls.get(call.index)
            function = call.function or _Function()
            if known is None or known.function is None:
                self.tool_calls[call.index] = _ToolCall(call.index, call.id, function)
                continue
            known.id = known.id or call.id
            known.function.name = known.function.name or function.name
            known.function.arguments = (known.function.arguments or "") + (function.arguments or "")

    def whole(self) -> tuple[_Message, _Logprobs | None]:
        """All of it as one message."""
        calls = [self.tool_calls[index] for index in sorted(self.tool_calls)]
        content, reasoning = "".join(self.content), "".join(self.reasoning)
        self.content, self.reasoning = [content], [reasoning]
        message = _Message(content=content, reasoning_content=reasoning or None, tool_calls=calls or None)
        return message, _Logprobs(self.logprobs) if self.logprobs else None


class GenerationOutlet:
    """A generation's answer.

    `is_text`: as `output.text`, of one choice, in place of messages. `is_incremental`: an event of a stream has what is
    new, not all so far. `is_multimodal`: content is a list of parts.
    """

    is_over = False

    def __init__(
        self,
        request_id: str,
        *,
        is_text: bool,
        is_multimodal: bool,
        is_incremental: bool,
        estimated_input_tokens: int,
    ) -> None:
        self._id = request_id
        self._is_text = is_text
        self._is_multimodal = is_multimodal
        self._is_incremental = is_incremental
        self._input_tokens = estimated_input_tokens
        self._output_tokens = 0
        self._number = 0
        self._usage: Usage | None = None
        self._told: dict[int, _Told] = {}
        self._has_ended = False

    def answer(self, body: bytes) -> bytes:
        try:
            answer = _chat.decode(body)
        except (msgspec.DecodeError, RecursionError):
            return error_document(_UNREADABLE, self._id)
        choices = [
            self._choice(choice.index, choice.message or _Message(), choice.finish_reason or "stop", choice.logprobs)
            for choice in answer.choices
        ]
        return self._document(choices, to_usage(answer.usage or UsageBody()))

    def events(self, events: bytes) -> bytes:
        out = b""
        for event in events.replace(b"\r\n", b"\n").split(b"\n\n"):
            data = event_data(event)
            if data == _DONE:
                out += self.end()
            elif data.startswith(b"{"):
                out += self._chunk(data)
        return out

    def end(self) -> bytes:
        """The last event: the ends of all choices, with the engine's count of tokens."""
        if self._has_ended:
            return b""
        self._has_ended = True
        choices = []
        for index in sorted(self._told):
            told = self._told[index]
            message, logprobs = (_Message(content=""), None) if self._is_incremental else told.whole()
            choices.append(self._choice(index, message, told.finish_reason or "stop", logprobs))
        return self._event(choices or [self._choice(0, _Message(content=""), "stop", None)])

    def error(self, error: CloudcrestError) -> bytes:
        self._has_ended = True
        self._number += 1
        status = error_status(error)
        # The comment is as DashScope has it; its own client reads the field.
        return b"id:%d\nevent:error\n:HTTP_STATUS/%d\nstatus:%d\ndata:%b\n\n" % (
            self._number,
            status,
            status,
            error_document(error, self._id),
        )

    def _chunk(self, data: bytes) -> bytes:
        try:
            chunk = _chat.decode(data)
        except (msgspec.DecodeError, RecursionError):
            return b""
        if chunk.usage is not None:
            self._usage = to_usage(chunk.usage)
        choices = []
        for choice in chunk.choices:
            told = self._told.setdefault(choice.index, _Told())
            told.finish_reason = choice.finish_reason or told.finish_reason
            said = choice.delta or _Message()
            if not (said.content or said.reasoning_content or said.refusal or said.tool_calls):
                continue  # only its role, or only its end, which the last event says
            self._output_tokens += 1
            logprobs = choice.logprobs
            if not self._is_incremental:
                told.add(said, logprobs)
                said, logprobs = told.whole()
            choices.append(self._choice(choice.index, said, RUNNING, logprobs))
        return self._event(choices) if choices else b""

    def _event(self, choices: list[dict[str, Any]]) -> bytes:
        self._number += 1
        usage = self._usage or Usage(self._input_tokens, self._output_tokens)
        return b"id:%d\nevent:result\n:HTTP_STATUS/200\ndata:%b\n\n" % (self._number, self._document(choices, usage))

    def _document(self, choices: list[dict[str, Any]], usage: Usage) -> bytes:
        output: dict[str, Any] = {"choices": choices}
        if self._is_text:
            first: dict[str, Any] = choices[0] if choices else {"message": {"content": ""}, "finish_reason": "stop"}
            output = {"text": first["message"]["content"], "finish_reason": first["finish_reason"]}
            if "reasoning_content" in first["message"]:
                output["reasoning_content"] = first["message"]["reasoning_content"]
        return _encode({"output": output, "usage": _usage_object(usage), "request_id": self._id})

    def _choice(self, index: int, said: _Message, finish_reason: str, logprobs: _Logprobs | None) -> dict[str, Any]:
        text = said.content or said.refusal or ""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": ([{"text": text}] if text else []) if self._is_multimodal and not self._is_text else text,
        }
        if said.reasoning_content:
            message["reasoning_content"] = said.reasoning_content
        if said.tool_calls:
            message["tool_calls"] = [_tool_call(call) for call in said.tool_calls]
        choice: dict[str, Any] = {"index": index, "finish_reason": finish_reason, "message": message}
        if logprobs is not None and logprobs.content is not None:
            choice["logprobs"] = {"content": logprobs.content}
        return choice


def _tool_call(call: _ToolCall) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": ""}
    if call.function is not None:
        if call.function.name:
            function["name"] = call.function.name
        function["arguments"] = call.function.arguments or ""
    return {"index": call.index, "id": call.id or "", "type": "function", "function": function}


def _usage_object(usage: Usage) -> dict[str, Any]:
    details = {"cached_tokens": usage.cached_input_tokens}
    if usage.cache_write_tokens:
        details["cache_creation_input_tokens"] = usage.cache_write_tokens
    document: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": details,
    }
    if usage.reasoning_tokens:
        document["output_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return document
