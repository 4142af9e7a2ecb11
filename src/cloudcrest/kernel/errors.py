"""One tree of errors, raised with what happened, why, and what to do; rendered once at the edge.

    CloudcrestError
    ├── InvalidInput            400  a field is wrong; `param` is its path
    │   └── ContextTooLong      400  the prompt does not fit the model's context
    ├── Unauthenticated         401  no, unknown, expired or revoked credentials
    ├── PermissionDenied        403  known, but not allowed
    ├── NotFound                404  no such thing, or not visible to the caller
    ├── Conflict                409  the thing's present state forbids it
    ├── TooLarge                413  the body is over its limit
    ├── LimitExceeded           429  a rate or concurrency limit; `retry_after_seconds` says when
    ├── EngineFault             502  an engine broke its side of the protocol
    ├── Unavailable             503  nothing can serve it now; `retry_after_seconds` may say when
    └── SetupError              –    this machine or its configuration cannot run Cloudcrest

The inference API renders them in the caller's dialect, the management API as RFC 9457 problem documents, the command
line as one sentence. `code` is stable and machine-readable; `hint` says what to do next.
"""

from typing import ClassVar


class CloudcrestError(Exception):
    """The root. `status` is the HTTP status, `code` the default machine-readable code."""

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        hint: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.hint = hint
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidInput(CloudcrestError):
    status = 400
    default_code = "invalid_value"
    title = "Invalid request"


class ContextTooLong(InvalidInput):
    default_code = "context_length_exceeded"


class Unauthenticated(CloudcrestError):
    status = 401
    default_code = "invalid_api_key"
    title = "Not authenticated"


class PermissionDenied(CloudcrestError):
    status = 403
    default_code = "permission_denied"
    title = "Permission denied"


class NotFound(CloudcrestError):
    status = 404
    default_code = "not_found"
    title = "Not found"


class Conflict(CloudcrestError):
    status = 409
    default_code = "conflict"
    title = "Conflict"


class TooLarge(CloudcrestError):
    status = 413
    default_code = "request_too_large"
    title = "Request too large"


class LimitExceeded(CloudcrestError):
    status = 429
    default_code = "rate_limit_exceeded"
    title = "Too many requests"


class EngineFault(CloudcrestError):
    status = 502
    default_code = "engine_error"
    title = "Engine fault"


class Unavailable(CloudcrestError):
    status = 503
    default_code = "unavailable"
    title = "Unavailable"


class SetupError(CloudcrestError):
    """Something on this machine stands in the way: a port in use, a full disk, a missing tool, an old data folder."""

    default_code = "setup_error"
    title = "Setup error"
