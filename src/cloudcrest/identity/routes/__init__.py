"""Identity's routes under /api/v1. Each file has one noun; a handler checks shapes and hands over to a service."""

from fastapi import APIRouter

from cloudcrest.identity.routes import accounts, keys, members, oidc, organizations, users, verification
from cloudcrest.identity.service.accounts import AccountService
from cloudcrest.identity.service.keys import KeyService
from cloudcrest.identity.service.members import MemberService
from cloudcrest.identity.service.oidc import OidcService
from cloudcrest.identity.service.organizations import OrganizationService
from cloudcrest.identity.service.users import UserService
from cloudcrest.identity.service.verification import VerificationService


def router(
    *,
    account_service: AccountService,
    verification_service: VerificationService,
    oidc_service: OidcService,
    organization_service: OrganizationService,
    member_service: MemberService,
    key_service: KeyService,
    secure_cookies: bool,
) -> APIRouter:
    """Every route of identity."""
    whole = APIRouter(prefix="/api/v1")
    whole.include_router(accounts.router(account_service, secure_cookies=secure_cookies))
    whole.include_router(verification.router(verification_service, account_service))
    whole.include_router(oidc.router(oidc_service, secure_cookies=secure_cookies))
    whole.include_router(organizations.router(organization_service))
    whole.include_router(members.router(member_service, account_service))
    whole.include_router(keys.router(key_service))
    whole.include_router(users.router(UserService()))
    return whole
