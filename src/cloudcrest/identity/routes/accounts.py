"""Sign-up, sign-in, sessions, passwords; who am I."""

from typing import Any

from fastapi import APIRouter, Request, Response, status

from cloudcrest.identity.authentication import CSRF_COOKIE, SESSION_COOKIE
from cloudcrest.identity.http import CallerDep
from cloudcrest.identity.schemas import (
    LoginIn,
    MembershipOut,
    MeOut,
    NewSessionOut,
    PasswordChangeIn,
    PasswordResetConfirmIn,
    PasswordResetIn,
    RegisteredOut,
    RegisterIn,
    SessionOut,
    UserOut,
)
from cloudcrest.identity.service.accounts import AccountService, SignedIn, person
from cloudcrest.identity.service.members import NewAccount
from cloudcrest.identity.tokens import csrf_token
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep
from cloudcrest.kernel.errors import Unauthenticated

OPEN_TO_ALL: dict[str, Any] = {"security": []}
"""For routes that need no credentials, in the OpenAPI document."""


def router(service: AccountService, *, secure_cookies: bool) -> APIRouter:
    """/auth and /me."""
    routes = APIRouter()
    _add_sign_in(routes, service, secure_cookies=secure_cookies)
    _add_sessions(routes, service)
    _add_passwords(routes, service, secure_cookies=secure_cookies)
    return routes


def address_of(request: Request) -> str:
    """Where a request comes from, for limits on guessing. The server resolves `x-forwarded-for` of its own gateway."""
    return request.client.host if request.client else "unknown"


def _add_sign_in(routes: APIRouter, service: AccountService, *, secure_cookies: bool) -> None:
    @routes.post(
        "/auth/register",
        operation_id="register",
        openapi_extra=OPEN_TO_ALL,
        tags=["auth"],
        summary="Make an account with an organization of its own",
        status_code=status.HTTP_201_CREATED,
        responses=responses(400, 403, 409, 422, 429),
    )
    async def register(body: RegisterIn, request: Request, response: Response, session: SessionDep) -> RegisteredOut:
        account = NewAccount(email=body.email, name=body.name, password=body.password.get_secret_value())
        signed_in, organization = await service.register(session, account, body.organization_name, address_of(request))
        set_session_cookies(response, signed_in, secure=secure_cookies)
        return RegisteredOut(
            user=UserOut.model_validate(signed_in.user),
            csrf_token=signed_in.csrf_token,
            expires_at=signed_in.expires_at,
            organization_id=organization.id,
        )

    @routes.post(
        "/auth/login",
        operation_id="login",
        openapi_extra=OPEN_TO_ALL,
        tags=["auth"],
        summary="Sign in with a password",
        responses=responses(401, 422, 429),
    )
    async def login(body: LoginIn, request: Request, response: Response, session: SessionDep) -> NewSessionOut:
        password = body.password.get_secret_value()
        signed_in = await service.login(session, body.email, password, address_of(request))
        set_session_cookies(response, signed_in, secure=secure_cookies)
        return NewSessionOut.model_validate(signed_in)


def _add_sessions(routes: APIRouter, service: AccountService) -> None:
    @routes.post(
        "/auth/logout",
        operation_id="logout",
        tags=["auth"],
        summary="End this session",
        status_code=status.HTTP_204_NO_CONTENT,
        responses=responses(401, 403),
    )
    async def logout(caller: CallerDep, request: Request, response: Response, session: SessionDep) -> None:
        person(caller)
        await service.logout(session, request.cookies.get(SESSION_COOKIE, ""))
        _clear_cookies(response)

    @routes.post(
        "/auth/logout-all",
        operation_id="logoutEverywhere",
        tags=["auth"],
        summary="End every session of this person",
        status_code=status.HTTP_204_NO_CONTENT,
        responses=responses(401, 403),
    )
    async def logout_everywhere(caller: CallerDep, response: Response, session: SessionDep) -> None:
        await service.logout_everywhere(session, caller)
        _clear_cookies(response)

    @routes.get(
        "/auth/session",
        operation_id="getSession",
        tags=["auth"],
        summary="The signed-in person and the CSRF token",
        responses=responses(401, 403),
    )
    async def get_session(caller: CallerDep, request: Request, session: SessionDep) -> SessionOut:
        user = await service.user(session, person(caller))
        if user is None:
            raise Unauthenticated("this account is gone", code="not_authenticated")
        token = request.cookies.get(SESSION_COOKIE, "")
        return SessionOut(user=UserOut.model_validate(user), csrf_token=csrf_token(token))

    @routes.get(
        "/me",
        operation_id="getMe",
        tags=["auth"],
        summary="Who these credentials belong to",
        responses=responses(401, 403),
    )
    async def get_me(caller: CallerDep, session: SessionDep) -> MeOut:
        user = None if caller.user_id is None else await service.user(session, caller.user_id)
        return MeOut(
            kind=caller.kind,
            id=caller.id,
            is_operator=caller.is_operator,
            user=None if user is None else UserOut.model_validate(user),
            memberships=[MembershipOut.model_validate(membership) for membership in caller.memberships],
        )


def _add_passwords(routes: APIRouter, service: AccountService, *, secure_cookies: bool) -> None:
    @routes.post(
        "/auth/password",
        operation_id="changePassword",
        tags=["auth"],
        summary="Change the password; every other session ends",
        responses=responses(400, 401, 403, 422, 429),
    )
    async def change_password(
        body: PasswordChangeIn, caller: CallerDep, request: Request, response: Response, session: SessionDep
    ) -> NewSessionOut:
        signed_in = await service.change_password(
            session,
            caller,
            body.present_password.get_secret_value(),
            body.new_password.get_secret_value(),
            address_of(request),
        )
        set_session_cookies(response, signed_in, secure=secure_cookies)
        return NewSessionOut.model_validate(signed_in)

    @routes.post(
        "/auth/password-reset",
        operation_id="requestPasswordReset",
        openapi_extra=OPEN_TO_ALL,
        tags=["auth"],
        summary="Mail a link for a new password, if there is such an account",
        status_code=status.HTTP_202_ACCEPTED,
        responses=responses(422, 429),
    )
    async def request_reset(body: PasswordResetIn, request: Request, session: SessionDep) -> None:
        await service.request_password_reset(session, body.email, address_of(request))

    @routes.post(
        "/auth/password-reset/confirm",
        operation_id="confirmPasswordReset",
        openapi_extra=OPEN_TO_ALL,
        tags=["auth"],
        summary="Choose a new password with a mailed link; every session ends",
        status_code=status.HTTP_204_NO_CONTENT,
        responses=responses(400, 422, 429),
    )
    async def confirm_reset(body: PasswordResetConfirmIn, request: Request, session: SessionDep) -> None:
        await service.confirm_password_reset(
            session, body.token.get_secret_value(), body.new_password.get_secret_value(), address_of(request)
        )


def set_session_cookies(response: Response, signed_in: SignedIn, *, secure: bool) -> None:
    """The session's cookie is out of scripts' reach; the CSRF token's is there for them to read."""
    for name, value, http_only in (
        (SESSION_COOKIE, signed_in.token, True),
        (CSRF_COOKIE, signed_in.csrf_token, False),
    ):
        response.set_cookie(
            name, value, max_age=signed_in.lifetime_seconds, path="/", secure=secure, httponly=http_only, samesite="lax"
        )
    response.headers["cache-control"] = "no-store"


def _clear_cookies(response: Response) -> None:
    response.delete_cookie(SESSION_COOKIE, path="/")
    response.delete_cookie(CSRF_COOKIE, path="/")
