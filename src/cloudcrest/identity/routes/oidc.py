"""Sign-in through an OpenID Connect provider. A browser navigates here; nothing else needs these routes."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, status
from fastapi.responses import RedirectResponse

from cloudcrest.identity.routes.accounts import OPEN_TO_ALL, address_of, set_session_cookies
from cloudcrest.identity.schemas import ProviderOut
from cloudcrest.identity.service.oidc import BEGUN_LASTS_SECONDS, Answer, OidcService
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep

BEGUN_COOKIE = "cloudcrest_oidc"
_PATH = "/api/v1/auth/oidc"
_COOKIE_CHARACTERS_MAX = 4096

ReturnTo = Annotated[
    str,
    Query(
        max_length=500,
        # A path of this cloud: `//host` and `/\host` would be other sites to a browser.
        pattern=r"^/([A-Za-z0-9._~!$&'()*+,;=:@%?#-][A-Za-z0-9._~!$&'()*+,;=:@%?#/-]*)?$",
        description="Where to go afterwards: a path of this cloud",
    ),
]
State = Annotated[str, Query(max_length=200)]
Code = Annotated[str | None, Query(min_length=1, max_length=4096)]
Error = Annotated[str | None, Query(max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]
Issuer = Annotated[str | None, Query(max_length=500)]


def router(service: OidcService, *, secure_cookies: bool) -> APIRouter:
    """/auth/oidc."""
    routes = APIRouter(prefix="/auth/oidc", tags=["auth"])

    @routes.get(
        "",
        operation_id="getIdentityProvider",
        openapi_extra=OPEN_TO_ALL,
        summary="The identity provider that people can sign in with, if there is one",
        responses=responses(404),
    )
    async def get_provider() -> ProviderOut:
        return ProviderOut(name=service.provider.name, login_url=f"{_PATH}/login")

    @routes.get(
        "/login",
        operation_id="beginOidcLogin",
        openapi_extra=OPEN_TO_ALL,
        summary="Send the browser to the identity provider",
        status_code=status.HTTP_302_FOUND,
        response_class=RedirectResponse,
        responses=responses(404, 422, 429, 503),
    )
    async def begin(request: Request, return_to: ReturnTo = "/") -> RedirectResponse:
        url, begun = await service.begin(return_to, address_of(request))
        response = _redirect(url)
        response.set_cookie(
            BEGUN_COOKIE,
            begun,
            max_age=BEGUN_LASTS_SECONDS,
            path=_PATH,
            secure=secure_cookies,
            httponly=True,
            samesite="lax",
        )
        return response

    @routes.get(
        "/callback",
        operation_id="completeOidcLogin",
        openapi_extra=OPEN_TO_ALL,
        summary="Where the identity provider sends the browser back to; signs it in",
        status_code=status.HTTP_302_FOUND,
        response_class=RedirectResponse,
        responses=responses(400, 401, 403, 404, 409, 422, 429, 503),
    )
    async def complete(
        request: Request,
        session: SessionDep,
        *,
        state: State = "",
        code: Code = None,
        error: Error = None,
        iss: Issuer = None,
    ) -> RedirectResponse:
        cookie = request.cookies.get(BEGUN_COOKIE, "")[:_COOKIE_CHARACTERS_MAX]
        answer = Answer(state=state, code=code, error=error, issuer=iss)
        signed_in, return_to = await service.complete(session, answer, cookie, address_of(request))
        response = _redirect(return_to)
        set_session_cookies(response, signed_in, secure=secure_cookies)
        response.delete_cookie(BEGUN_COOKIE, path=_PATH)
        return response

    return routes


def _redirect(url: str) -> RedirectResponse:
    return RedirectResponse(url, status.HTTP_302_FOUND, headers={"cache-control": "no-store"})
