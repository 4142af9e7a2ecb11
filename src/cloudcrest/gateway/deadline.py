"""How long a request may take in all: waiting, retries, resumes and the answer. Pure.

One number on the request (`Request.deadline`), set before it is admitted; its connection looks at it at every tick.
"""

from collections.abc import Sequence
from math import inf

from cloudcrest.gateway.admit import Scope
from cloudcrest.gateway.errors import DeadlinePassed
from cloudcrest.gateway.request import TIMEOUT_HEADER, Connection, Request
from cloudcrest.kernel.errors import InvalidInput


def least_timeout(scopes: Sequence[Scope]) -> float:
    """The least that any of the scopes allows, in seconds; infinite where none says."""
    limits = [scope.limits.request_timeout_seconds for scope in scopes]
    return min((limit for limit in limits if limit is not None), default=inf)


def set_deadline(request: Request, scopes_seconds: float, platform_seconds: float, now: float) -> None:
    """The least of the scopes', the platform's and the caller's own. Raises `InvalidInput` for what is no time."""
    seconds = min(scopes_seconds, platform_seconds)
    if request.timeout is not None:
        seconds = min(seconds, _milliseconds(request.timeout) / 1000)
    request.timeout_seconds = seconds
    request.deadline = now + seconds


def refuse(connection: Connection, request: Request) -> None:
    """Answers a request whose time is over before anything of its answer was out."""
    # What the OpenAI clients go by: asked again, it would be charged again and run out of time again.
    request.extra_head += b"x-should-retry: false\r\n"
    connection.respond_error(deadline_passed(request))


def deadline_passed(request: Request) -> DeadlinePassed:
    """What the caller is told."""
    return DeadlinePassed(
        f"the answer was not whole within the {request.timeout_seconds:g} s that this request may take"
    )


def _milliseconds(value: bytes) -> int:
    if not value.isdigit() or len(value) > 12 or int(value) == 0:  # isdigit: ASCII digits alone
        name = TIMEOUT_HEADER.decode()
        raise InvalidInput(f"{name} is to be a whole number of milliseconds, at least 1", param=name)
    return int(value)
