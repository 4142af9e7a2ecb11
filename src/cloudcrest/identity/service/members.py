"""Members of organizations and projects, and the invitations that bring them."""

from datetime import timedelta

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity import authority
from cloudcrest.identity.api import Caller, Membership, Role
from cloudcrest.identity.attempts import AttemptLimiter
from cloudcrest.identity.mail import invitation_mail
from cloudcrest.identity.passwords import Passwords
from cloudcrest.identity.records import Invitation, Member, Organization, User
from cloudcrest.identity.repository import accounts as account_repository
from cloudcrest.identity.repository import members as repository
from cloudcrest.identity.repository import organizations as organization_repository
from cloudcrest.identity.service.verification import SEND_EMAIL_VERIFICATION_TASK, require_verified
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.identity.tokens import NewSecret, sha256_hex
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.infra.jobs import Jobs
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, NotFound, PermissionDenied, Unauthenticated
from cloudcrest.kernel.ids import NewId

SEND_MAIL_TASK = "identity:send_mail"


class NewAccount(msgspec.Struct, frozen=True):
    """What a person without an account brings to an invitation. `email` is lower case."""

    email: str
    name: str
    password: str


class MemberService:
    """Only owners make, change or remove owners, and the last owner stays."""

    def __init__(
        self,
        *,
        clock: Clock,
        new_id: NewId,
        settings: IdentitySettings,
        new_secret: NewSecret,
        passwords: Passwords,
        jobs: Jobs,
        sealer: Sealer,
    ) -> None:
        self._clock = clock
        self._new_id = new_id
        self._settings = settings
        self._new_secret = new_secret
        self._passwords = passwords
        self._jobs = jobs
        self._sealer = sealer
        self._mailed = AttemptLimiter(
            clock,
            attempts=settings.mailed_invitations_per_organization,
            window_seconds=settings.attempt_window_seconds,
        )

    async def list_members(
        self, session: AsyncSession, caller: Caller, page: PageRequest, organization_id: str, project_id: str | None
    ) -> list[Member]:
        await self._scope(session, caller, organization_id, project_id)
        caller.require("members:read", organization_id, project_id)
        return await repository.list_members(session, page, organization_id, project_id)

    async def add(
        self,
        session: AsyncSession,
        caller: Caller,
        organization_id: str,
        *,
        user_id: str,
        role: Role,
        project_id: str | None,
    ) -> Member:
        """Gives someone who is in the organization a role in it or in another of its projects."""
        await self._may_grant(session, caller, organization_id, role, project_id)
        theirs = await repository.memberships_of(session, user_id)
        if not any(membership.organization_id == organization_id for membership in theirs):
            raise NotFound(f"there is no member '{user_id}' in this organization", hint="invite them first")
        membership = Membership(organization_id=organization_id, role=role, project_id=project_id)
        return await self._join(session, user_id, membership)

    async def set_role(
        self, session: AsyncSession, caller: Caller, organization_id: str, membership_id: str, role: Role
    ) -> Member:
        """A demotion also withdraws what the person invited to."""
        await self._locked_organization(session, organization_id, caller)
        member = await self._member(session, caller, organization_id, membership_id)
        caller.require("members:write", organization_id, member.project_id)
        authority.check_change_of(caller, organization_id, member.role)
        authority.check_grant(caller, organization_id, role, member.project_id)
        owners = await repository.count_owners(session, organization_id)
        authority.check_owner_remains(member.role, role, owners)
        if role != member.role:
            await repository.set_role(session, membership_id, role)
            await repository.delete_open_invitations_by(session, organization_id, member.user_id)
        return msgspec.structs.replace(member, role=role)

    async def remove(self, session: AsyncSession, caller: Caller, organization_id: str, membership_id: str) -> None:
        """Anyone may leave. Who leaves an organization leaves its projects; their management keys lose their power."""
        await self._locked_organization(session, organization_id, caller)
        member = await self._member(session, caller, organization_id, membership_id)
        leaving = caller.kind == "user" and caller.user_id == member.user_id
        if not leaving:
            caller.require("members:write", organization_id, member.project_id)
            authority.check_change_of(caller, organization_id, member.role)
        owners = await repository.count_owners(session, organization_id)
        authority.check_owner_remains(member.role, None, owners)
        await repository.delete_open_invitations_by(session, organization_id, member.user_id)
        if member.project_id is None:
            await repository.delete_memberships_of(session, organization_id, member.user_id)
        else:
            await repository.delete_membership(session, membership_id)

    async def invite(
        self,
        session: AsyncSession,
        caller: Caller,
        organization_id: str,
        *,
        role: Role,
        project_id: str | None,
        email: str | None,
    ) -> tuple[Invitation, str]:
        """The invitation and its link, which is also mailed where there is an address."""
        organization = await self._may_grant(session, caller, organization_id, role, project_id)
        await require_verified(session, self._settings, caller)
        if email is not None:
            self._mailed.attempt(organization_id)
        now = self._clock.now()
        most = self._settings.invitations_per_organization_max
        await repository.make_room_for_invitation(session, organization_id, most, now)
        token = self._new_secret()
        lifetime_seconds = self._settings.invitation_lifetime_seconds
        invitation = Invitation(
            id=self._new_id("inv"),
            organization_id=organization_id,
            project_id=project_id,
            role=role,
            email=email,
            created_by=caller.user_id,
            by_operator=caller.is_operator,
            created_at=now,
            expires_at=now + timedelta(seconds=lifetime_seconds),
            accepted_at=None,
        )
        await repository.add_invitation(session, invitation, sha256_hex(token))
        link = f"{self._settings.public_url.rstrip('/')}/invitations#token={token}"
        if email is not None:
            mail = invitation_mail(email, organization.name, role, link, lifetime_seconds)
            sealed = self._sealer.seal(msgspec.json.encode(mail).decode())
            await self._jobs.defer(session, SEND_MAIL_TASK, sealed_mail=sealed)
        return invitation, link

    async def list_invitations(
        self, session: AsyncSession, caller: Caller, page: PageRequest, organization_id: str
    ) -> list[Invitation]:
        caller.require("members:write", organization_id)
        return await repository.list_invitations(session, page, organization_id)

    async def withdraw_invitation(
        self, session: AsyncSession, caller: Caller, organization_id: str, invitation_id: str
    ) -> None:
        """The link stops working."""
        missing = f"there is no invitation '{invitation_id}'"
        invitation = await repository.invitation_by_id(session, organization_id, invitation_id)
        if invitation is None:
            raise NotFound(missing)
        caller.require("members:write", organization_id, invitation.project_id, missing=missing)
        await repository.delete_invitation(session, invitation_id)

    async def accept(
        self, session: AsyncSession, caller: Caller | None, token: str, new_account: NewAccount | None
    ) -> Member:
        """Takes an invitation once: as the signed-in person, or with a new account."""
        if caller is None and new_account is None:
            raise Unauthenticated(
                "sign in to take this invitation", code="not_authenticated", hint="or send `account` to make an account"
            )
        if caller is not None and (caller.kind != "user" or new_account is not None):
            raise PermissionDenied("a signed-in person takes an invitation as who they are", hint="leave out `account`")
        # Hashed first: no connection is held while it takes its time.
        password_hash = None if new_account is None else await self._passwords.hash(new_account.password)
        now = self._clock.now()
        invitation = await repository.open_invitation(session, sha256_hex(token), now)
        if invitation is None:
            raise NotFound("this invitation is used, withdrawn or expired", hint="ask for a new one")
        if new_account is not None:
            authority.check_may_register_by(self._settings.registration, invited_by_operator=invitation.by_operator)
            user_id = await self._make_account(session, new_account, password_hash, invitation)
        else:
            user_id = await self._invited_person(session, caller, invitation)
        await repository.mark_accepted(session, invitation.id, now)
        membership = Membership(
            organization_id=invitation.organization_id, role=invitation.role, project_id=invitation.project_id
        )
        return await self._join(session, user_id, membership)

    async def _make_account(
        self, session: AsyncSession, new_account: NewAccount, password_hash: str | None, invitation: Invitation
    ) -> str:
        self._check_address(new_account.email, invitation)
        user = User(
            id=self._new_id("user"),
            email=new_account.email,
            name=new_account.name,
            password_hash=password_hash,
            is_operator=False,
            created_at=self._clock.now(),
        )
        if not await account_repository.add_user(session, user):
            raise Conflict("this e-mail address has an account", code="email_taken", hint="sign in, then accept")
        await self._jobs.defer(session, SEND_EMAIL_VERIFICATION_TASK, user_id=user.id)
        return user.id

    async def _invited_person(self, session: AsyncSession, caller: Caller | None, invitation: Invitation) -> str:
        user = await account_repository.user_by_id(session, (caller and caller.user_id) or "")
        if user is None:
            raise Unauthenticated("sign in to take this invitation", code="not_authenticated")
        self._check_address(user.email, invitation)
        return user.id

    def _check_address(self, email: str, invitation: Invitation) -> None:
        if invitation.email not in (None, email):
            raise PermissionDenied("this invitation is for another e-mail address", code="other_address")

    async def _join(self, session: AsyncSession, user_id: str, membership: Membership) -> Member:
        organization_id = membership.organization_id
        await self._locked_organization(session, organization_id)
        most = self._settings.members_per_organization_max
        if await repository.count_memberships(session, organization_id) >= most:
            raise Conflict(f"there are {most} members, which is the most", code="too_many")
        membership_id = self._new_id("mem")
        await repository.add_membership(session, membership_id, user_id, membership, self._clock.now())
        member = await repository.member_by_id(session, organization_id, membership_id)
        if member is None:
            raise NotFound(f"there is no member '{user_id}'")
        return member

    async def _may_grant(
        self, session: AsyncSession, caller: Caller, organization_id: str, role: Role, project_id: str | None
    ) -> Organization:
        organization = await self._scope(session, caller, organization_id, project_id)
        caller.require("members:write", organization_id, project_id)
        authority.check_grant(caller, organization_id, role, project_id)
        return organization

    async def _scope(
        self, session: AsyncSession, caller: Caller, organization_id: str, project_id: str | None
    ) -> Organization:
        """The organization, where the caller can see it and the project is one of its own."""
        organization = await organization_repository.organization_by_id(session, organization_id)
        if organization is None or not caller.belongs_to(organization_id):
            raise NotFound(f"there is no organization '{organization_id}'")
        if project_id is not None:
            missing = f"there is no project '{project_id}' in this organization"
            project = await organization_repository.project_by_id(session, project_id)
            if project is None or project.organization_id != organization_id or project.archived_at is not None:
                raise NotFound(missing)
            caller.require("projects:read", organization_id, project_id, missing=missing)
        return organization

    async def _member(self, session: AsyncSession, caller: Caller, organization_id: str, membership_id: str) -> Member:
        missing = f"there is no member '{membership_id}'"
        member = await repository.member_by_id(session, organization_id, membership_id)
        if member is None:
            raise NotFound(missing)
        caller.require("members:read", organization_id, member.project_id, missing=missing)
        return member

    async def _locked_organization(
        self, session: AsyncSession, organization_id: str, caller: Caller | None = None
    ) -> None:
        """Lets one change of members happen at a time, so that counting owners means something."""
        visible = caller is None or caller.belongs_to(organization_id)
        if not visible or await organization_repository.organization_by_id(session, organization_id, lock=True) is None:
            raise NotFound(f"there is no organization '{organization_id}'")
