"""Errors in OpenAI's shape, and what an engine's own errors become: they are never passed on raw.

{"error": {"message": "…", "type": "invalid_request_error", "param": "messages[2].role", "code": "invalid_value"}}
"""

import re

import msgspec

from cloudcrest.kernel.errors import (
    CloudcrestError,
    ContextTooLong,
    EngineFault,
    InvalidInput,
    LimitExceeded,
    PermissionDenied,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

_TYPES: dict[int, str] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
_CONTEXT = re.compile(r"context (size|length|window)|exceed_context_size|maximum context", re.IGNORECASE)
_BATCH = re.compile(r"too large to process", re.IGNORECASE)  # llama.cpp calls it a fault of its own
_SCHEMA = re.compile(r"grammar|json.?schema|response_format", re.IGNORECASE)
_TEMPLATE = re.compile(r"template|roles must alternate|jinja", re.IGNORECASE)
_MEDIA = re.compile(r"image|audio|multimodal|mmproj", re.IGNORECASE)
_MAX_ENGINE_ERROR_BYTES = 65_536


class HeadTooLarge(InvalidInput):
    status = 431
    default_code = "request_header_fields_too_large"


class RequestTimeout(InvalidInput):
    status = 408
    default_code = "request_timeout"


class DeadlinePassed(CloudcrestError):
    status = 504
    default_code = "deadline_exceeded"


class MethodNotAllowed(InvalidInput):
    status = 405
    default_code = "method_not_allowed"


class ExpectationFailed(InvalidInput):
    status = 417
    default_code = "expectation_failed"


class ErrorBody(msgspec.Struct, frozen=True):
    """The inside of OpenAI's error document."""

    message: str
    type: str
    param: str | None
    code: str | None


def error_document(error: CloudcrestError) -> bytes:
    """The JSON document of an error."""
    kind = _TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "server_error")
    if error.code == "insufficient_quota":
        kind = "insufficient_quota"
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return msgspec.json.encode({"error": ErrorBody(message, kind, error.param, error.code)})


def error_event(error: CloudcrestError) -> bytes:
    """The same as a server-sent event, for a stream that has begun."""
    return b"data: " + error_document(error) + b"\n\n"


def engine_error(status: int, body: bytes, *, input_field: str) -> CloudcrestError:
    """What an engine's refusal means to the caller, who wrote the prompt in `input_field`.

    Only the two numbers of a context error are taken from it.
    """
    text = body[:_MAX_ENGINE_ERROR_BYTES].decode("utf-8", "replace")
    if (status in (400, 413, 422) and _CONTEXT.search(text)) or _BATCH.search(text):
        return context_too_long(body, input_field)
    if status in (400, 422):
        return _refusal(text, input_field)
    if status in (429, 503):
        return Unavailable("the model's replica is busy or still loading", retry_after_seconds=1)
    return EngineFault(
        "the model's engine failed to answer", hint="try again; the operator finds the cause in the logs"
    )


def context_too_long(body: bytes, input_field: str) -> ContextTooLong:
    """The context error with the numbers the engine gave, where it gave them."""
    prompt = re.search(rb'"n_prompt_tokens"\s*:\s*(\d{1,9})', body)
    context = re.search(rb'"n_ctx"\s*:\s*(\d{1,9})', body) or re.search(rb"context length is (\d{1,9})", body)
    limit = f"this model's context length is {int(context[1])} tokens" if context else "this model's context is shorter"
    asked = f", and your input has {int(prompt[1])}" if prompt else " than your input and the output you ask for"
    return ContextTooLong(limit + asked, param=input_field, hint="shorten the input or ask for less output")


def _refusal(text: str, input_field: str) -> InvalidInput:
    if _MEDIA.search(text):
        return InvalidInput("this model takes text only", param=input_field, code="unsupported_content")
    if _SCHEMA.search(text):
        return InvalidInput("the model's engine cannot follow this response_format", param="response_format")
    if _TEMPLATE.search(text):
        return InvalidInput("these messages do not fit the model's chat template", param="messages")
    return InvalidInput("the model's engine refused this request", code="invalid_request")


def body_too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"the request's body is over {limit_bytes} bytes")


def unknown_key() -> Unauthenticated:
    return Unauthenticated("this API key is unknown, expired or revoked", hint="check the key, or make a new one")


def missing_key() -> Unauthenticated:
    return Unauthenticated("no API key was given", hint="send the header 'Authorization: Bearer sk-cc-…'")


def suspended(reason: str) -> LimitExceeded:
    return LimitExceeded(f"this organization is suspended: {reason}", code="insufficient_quota")


def model_not_allowed(model: str) -> PermissionDenied:
    return PermissionDenied(
        f"this API key may not use the model '{model}'", code="model_not_allowed", param="model", hint="use another key"
    )
