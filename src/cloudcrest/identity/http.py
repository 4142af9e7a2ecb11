"""Identity's face for routes: the caller of a management request.

Kept apart from api.py, which the gateway reads and which therefore must not reach a web framework.
"""

from typing import Annotated

from fastapi import Depends, Request

from cloudcrest.identity.api import Caller
from cloudcrest.kernel.errors import Unauthenticated


def current_caller(request: Request) -> Caller:
    """The caller that the authentication middleware recognised. Raises `Unauthenticated` when there is none."""
    caller = getattr(request.state, "caller", None)
    if not isinstance(caller, Caller):
        raise Unauthenticated(
            "this needs an API key with the management scope, or a signed-in session",
            code="not_authenticated",
            hint="send `Authorization: Bearer <key>`, or sign in at POST /api/v1/auth/login",
        )
    return caller


CallerDep = Annotated[Caller, Depends(current_caller)]
