"""The lines of a batch: what a line has to be, what its request is called, and what becomes of an answer. Pure.

A request's id is made of the batch, the line and the attempt, so whoever asks again after a crash asks under the same
id, and the ledger takes one event of an id. A new attempt begins only after an answer that charged nothing.
"""

from hashlib import sha256
from typing import Annotated, Any, Literal

import msgspec

from cloudcrest.gateway.explain import explain
from cloudcrest.kernel.ids import encode_ulid

MAX_LINE_BYTES = 8 * 2**20
MAX_LINES = 50_000
MAX_CUSTOM_ID_CHARACTERS = 512
MAX_ATTEMPTS_AT_FAULTS = 3
RESPONSES = "/v1/responses"
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", RESPONSES)
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]

EXPIRED_CODE, CANCELLED_CODE = "batch_expired", "batch_cancelled"

Verdict = Literal["done", "failed", "same", "again"]
"""Of an answer: a result, an error that stays, asked again under the same id, or as a new attempt."""


class LineError(msgspec.Struct, frozen=True):
    """Why a line does not run, or no longer."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Line(msgspec.Struct, frozen=True):
    """A line of an input file: its number (from 1), where its bytes are, and why it cannot run, if it cannot."""

    number: int
    start_byte: int
    end_byte: int
    custom_id: str | None = None
    error: LineError | None = None


class _Body(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    stream: bool | None = None


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CUSTOM_ID_CHARACTERS)]
    method: Literal["POST"]
    url: str
    body: _Body


class _Named(msgspec.Struct):
    custom_id: Annotated[str, msgspec.Meta(max_length=MAX_CUSTOM_ID_CHARACTERS)] | None = None


class _Raw(msgspec.Struct):
    body: msgspec.Raw


class _Told(msgspec.Struct):
    code: str | None = None


class _Error(msgspec.Struct):
    error: _Told = msgspec.field(default_factory=_Told)


def read_line(data: bytes, number: int, start_byte: int, endpoint: str) -> Line:
    """Checks a line, as far as that is possible without running it."""
    line = Line(number, start_byte, start_byte + len(data))
    try:
        written = msgspec.json.decode(data, type=_Written)
    except msgspec.ValidationError as error:
        told = explain(str(error))
        return _broken(line, told.code, told.message, told.param, _custom_id(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _broken(line, "invalid_json_line", f"it is not valid JSON: {error}")
    except RecursionError:
        return _broken(line, "invalid_json_line", "it is nested too deeply")
    if written.url != endpoint:
        return _broken(line, "mismatched_url", f"its url is not the batch's: {endpoint}", "url", written.custom_id)
    if written.body.stream:
        return _broken(line, "unsupported_stream", "a batch has no streams", "body.stream", written.custom_id)
    return msgspec.structs.replace(line, custom_id=written.custom_id)


def too_long(number: int, start_byte: int, end_byte: int) -> Line:
    """A line that is not even read."""
    return _broken(Line(number, start_byte, end_byte), "line_too_long", f"it is over {MAX_LINE_BYTES} bytes")


def duplicate(line: Line) -> Line:
    """A line whose custom_id another one has."""
    return _broken(line, "duplicate_custom_id", "another line has this custom_id", "custom_id", line.custom_id)


def body_of(data: bytes) -> bytes:
    """The request's body as it is written in a line that was checked."""
    return bytes(msgspec.json.decode(data, type=_Raw).body)


def request_id(batch_id: str, created_at_milliseconds: int, number: int, attempt: int) -> str:
    """Of a line's attempt: always the same."""
    digest = sha256(f"{batch_id}:{number}:{attempt}".encode()).digest()
    return f"req_{encode_ulid(created_at_milliseconds, int.from_bytes(digest[:10], 'big'))}"


def verdict(status: int, body: bytes, attempt: int) -> Verdict:
    """What becomes of an answer. What is refused for want of room (429) has no account yet, so its id is free."""
    if status == 200:
        return "done"
    if status == 429:
        return "failed" if error_code(body) == "insufficient_quota" else "same"
    if status == 503:
        return "again"
    if status in (500, 502):
        return "again" if attempt + 1 < MAX_ATTEMPTS_AT_FAULTS else "failed"
    return "failed"


def error_code(body: bytes) -> str | None:
    """The code of an error in OpenAI's shape."""
    try:
        return msgspec.json.decode(body, type=_Error).error.code
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class LineUsage(msgspec.Struct, frozen=True):
    """Tokens of one answer."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Of a completion, or of a response, which calls them by other names."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


def usage_of(body: bytes) -> LineUsage:
    """The usage that an answer names."""
    try:
        usage = msgspec.json.decode(body, type=_Answer).usage
    except (msgspec.MsgspecError, UnicodeDecodeError):
        usage = None
    if usage is None:
        return LineUsage()
    inputs = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
    outputs = usage.completion_tokens_details or usage.output_tokens_details or _Details()
    return LineUsage(
        usage.prompt_tokens or usage.input_tokens,
        inputs.cached_tokens or 0,
        usage.completion_tokens or usage.output_tokens,
        outputs.reasoning_tokens or 0,
    )


def result_line(
    batch_id: str, number: int, custom_id: str | None, answer: tuple[int, str, bytes] | None, error: LineError | None
) -> bytes:
    """A line of the output or error file. `answer`: status, request id and body; None: it never ran."""
    response: dict[str, Any] | None = None
    if answer is not None:
        status, request, body = answer
        response = {"status_code": status, "request_id": request, "body": _raw(body)}
    document = {
        "id": f"{batch_id.replace('batch_', 'batch_req_')}_{number}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return msgspec.json.encode(document) + b"\n"


def _raw(body: bytes) -> Any:
    """An answer as JSON; what is none becomes a text."""
    try:
        msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return body.decode("utf-8", "replace")
    return msgspec.Raw(body)


def _broken(line: Line, code: str, what: str, param: str | None = None, custom_id: str | None = None) -> Line:
    error = LineError(code, f"line {line.number}: {what}", line.number, param)
    return msgspec.structs.replace(line, custom_id=custom_id, error=error)


def _custom_id(data: bytes) -> str | None:
    """The custom_id of a line that is wrong elsewhere."""
    try:
        return msgspec.json.decode(data, type=_Named).custom_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
