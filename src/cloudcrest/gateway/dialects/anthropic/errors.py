"""Errors in Anthropic's shape, with its statuses. Pure.

{"type": "error", "error": {"type": "invalid_request_error", "message": "…"}, "request_id": "req_…"}
"""

import msgspec

from cloudcrest.kernel.errors import CloudcrestError, ContextTooLong

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STATUSES = {502: 500, 503: 529}
_OUT_OF_MONEY = "insufficient_quota"
_BLOCKED = "content_blocked"
_NAMES = {
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
}
"""What a field of the canonical request is called here."""


def status_of(error: CloudcrestError) -> int:
    """The status that Anthropic has for it: 529 where nothing can answer now, 402 where money is short."""
    return 402 if error.code == _OUT_OF_MONEY else _STATUSES.get(error.status, error.status)


def error_document(error: CloudcrestError, request_id: str) -> bytes:
    """The JSON document of an error. Its message names the field, for which there is no place beside it."""
    status = status_of(error)
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
    inner = {"type": kind, "message": _message(error)}
    return msgspec.json.encode({"type": "error", "error": inner, "request_id": request_id})


def _message(error: CloudcrestError) -> str:
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    if isinstance(error, ContextTooLong):
        return f"prompt is too long: {message}"  # the words by which agents know that they have to say less
    name = _NAMES.get(error.param or "", error.param)
    if name and error.code == _BLOCKED:  # by where it is in the canonical request, whose messages are others
        name = name.partition("[")[0]
    if name and f"'{name}'" not in message:
        return f"{name}: {message}"
    return message
