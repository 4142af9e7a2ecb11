"""What a new cloud starts with: an operator, a first organization with a key, and the key that probes models."""

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.api import DEFAULT_ORGANIZATION_ID, SYSTEM_ORGANIZATION_ID
from cloudcrest.identity.passwords import Passwords
from cloudcrest.identity.records import User
from cloudcrest.identity.repository import accounts, keys, organizations
from cloudcrest.identity.service.keys import KeyDraft, KeyService
from cloudcrest.identity.service.organizations import OrganizationService
from cloudcrest.identity.tokens import sha256_hex
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict
from cloudcrest.kernel.ids import NewId

_SEED_LOCK = 0x6964656E74
_DEFAULT_PROJECT_ID = "proj_00000000000000000000000001"
_SYSTEM_PROJECT_ID = "proj_00000000000000000000000002"


async def seed(
    session: AsyncSession,
    *,
    first_key: str,
    operator_key: str,
    probe_key: str,
    operator_email: str,
    operator_password: str | None,
    organization_service: OrganizationService,
    key_service: KeyService,
    passwords: Passwords,
    clock: Clock,
    new_id: NewId,
) -> None:
    """Writes and publishes what is missing; again, it changes nothing. Keys are known by their hashes.

    Without a password the operator signs in after a password reset. An operator who is there keeps their password.
    """
    await session.execute(select(func.pg_advisory_xact_lock(_SEED_LOCK)))
    user_id = await _operator(
        session,
        email=operator_email,
        password=operator_password,
        passwords=passwords,
        clock=clock,
        new_id=new_id,
    )
    for organization_id, project_id, name in (
        (DEFAULT_ORGANIZATION_ID, _DEFAULT_PROJECT_ID, "Default organization"),
        (SYSTEM_ORGANIZATION_ID, _SYSTEM_PROJECT_ID, "Cloudcrest system"),
    ):
        if await organizations.organization_by_id(session, organization_id) is None:
            await organization_service.found(
                session, name, user_id, organization_id=organization_id, project_id=project_id
            )
    default = KeyDraft(
        project_id=_DEFAULT_PROJECT_ID,
        name="first key",
        scopes=("inference", "management"),
        organization_wide=True,
    )
    probe = KeyDraft(project_id=_SYSTEM_PROJECT_ID, name="probe")
    operator = msgspec.structs.replace(
        probe, name="operator", scopes=("management",), organization_wide=True, is_operator=True
    )
    for draft, organization_id, secret in (
        (default, DEFAULT_ORGANIZATION_ID, first_key),
        (probe, SYSTEM_ORGANIZATION_ID, probe_key),
        (operator, SYSTEM_ORGANIZATION_ID, operator_key),
    ):
        if await keys.key_by_sha256(session, sha256_hex(secret)) is None:
            await key_service.write(session, draft, organization_id, user_id, secret)


async def _operator(
    session: AsyncSession, *, email: str, password: str | None, passwords: Passwords, clock: Clock, new_id: NewId
) -> str:
    known = await accounts.user_by_email(session, email.lower())
    if known is not None:
        if not known.is_operator:
            raise Conflict(f"{email} has an account that is no operator's", hint="name another operator_email")
        if known.email_verified_at is None:
            await accounts.set_email_verified(session, known.id, clock.now())
        return known.id
    user = User(
        id=new_id("user"),
        email=email.lower(),
        name="Operator",
        password_hash=None if password is None else await passwords.hash(password),
        is_operator=True,
        created_at=clock.now(),
        # Whoever runs the cloud named the address, so nobody can have squatted it.
        email_verified_at=clock.now(),
    )
    await accounts.add_user(session, user)
    return user.id
