"""Proving that an e-mail address is one's own."""

from fastapi import APIRouter, Request, status

from cloudcrest.identity.http import CallerDep
from cloudcrest.identity.routes.accounts import address_of
from cloudcrest.identity.schemas import EmailVerificationIn
from cloudcrest.identity.service.accounts import AccountService, person
from cloudcrest.identity.service.verification import VerificationService
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep


def router(service: VerificationService, accounts: AccountService) -> APIRouter:
    """/auth/verify-email."""
    routes = APIRouter(prefix="/auth/verify-email", tags=["auth"])

    @routes.post(
        "",
        operation_id="verifyEmail",
        summary="Confirm the signed-in person's e-mail address with a mailed link",
        status_code=status.HTTP_204_NO_CONTENT,
        responses=responses(400, 401, 403, 422, 429),
    )
    async def verify_email(body: EmailVerificationIn, caller: CallerDep, request: Request, session: SessionDep) -> None:
        accounts.count_address(address_of(request))
        await service.confirm(session, person(caller), body.token.get_secret_value())

    @routes.post(
        "/resend",
        operation_id="resendEmailVerification",
        summary="Mail the link again; it replaces the last one",
        status_code=status.HTTP_202_ACCEPTED,
        responses=responses(401, 403, 429),
    )
    async def resend(caller: CallerDep, request: Request, session: SessionDep) -> None:
        accounts.count_address(address_of(request))
        await service.resend(session, person(caller))

    return routes
