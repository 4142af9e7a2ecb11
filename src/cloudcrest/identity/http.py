"""Identity's face for routes: the caller of a management request.

Kept apart from api.py, which the gateway reads and which therefore must not reach a web framework.
"""

from typing import Annotated

from fastapi import Depends, Request

from cloudcrest.identity.api import Caller
from cloudcrest.kernel.errors import CloudcrestError, Unauthenticated


def optional_caller(request: Request) -> Caller | None:
    """The caller, None for an anonymous request. Raises what was wrong with the credentials that were sent."""
    problem = getattr(request.state, "caller_problem", None)
    if isinstance(problem, CloudcrestError):
        raise problem
    caller = getattr(request.state, "caller", None)
    return caller if isinstance(caller, Caller) else None


def current_caller(caller: Annotated[Caller | None, Depends(optional_caller)]) -> Caller:
    """The caller that the authentication middleware recognised. Raises `Unauthenticated` when there is none."""
    if caller is None:
        raise Unauthenticated(
            "this needs an API key with the management scope, or a signed-in session",
            code="not_authenticated",
            hint="send `Authorization: Bearer <key>`, or sign in at POST /api/v1/auth/login",
        )
    return caller


OptionalCallerDep = Annotated[Caller | None, Depends(optional_caller)]
CallerDep = Annotated[Caller, Depends(current_caller)]
