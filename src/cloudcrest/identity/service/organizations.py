"""Organizations and their projects."""

from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.api import Caller, Guardrails, Limits, Membership, OrganizationCreated
from cloudcrest.identity.documents import publish_organization, publish_project, withdraw_key
from cloudcrest.identity.records import Organization, Project
from cloudcrest.identity.repository import keys as key_repository
from cloudcrest.identity.repository import members as member_repository
from cloudcrest.identity.repository import organizations as repository
from cloudcrest.identity.service.verification import require_verified
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, NotFound, PermissionDenied
from cloudcrest.kernel.ids import NewId

DEFAULT_PROJECT_NAME = "default"


class OrganizationService:
    """Founds, changes and suspends organizations; makes, changes and archives projects."""

    def __init__(
        self, *, clock: Clock, new_id: NewId, settings: IdentitySettings, organization_created: OrganizationCreated
    ) -> None:
        self._clock = clock
        self._new_id = new_id
        self._settings = settings
        self._organization_created = organization_created

    async def found(
        self,
        session: AsyncSession,
        name: str,
        owner_user_id: str,
        *,
        organization_id: str | None = None,
        project_id: str | None = None,
    ) -> Organization:
        """Writes and publishes an organization with its owner and a project "default". Ids are fresh unless given."""
        now = self._clock.now()
        organization = Organization(
            id=organization_id or self._new_id("org"),
            name=name,
            limits=Limits(),
            ceiling=Limits(),
            created_at=now,
        )
        project = Project(
            id=project_id or self._new_id("proj"),
            organization_id=organization.id,
            name=DEFAULT_PROJECT_NAME,
            limits=Limits(),
            created_at=now,
            archived_at=None,
        )
        await repository.add_organization(session, organization, created_by=owner_user_id)
        await repository.add_project(session, project)
        owner = Membership(organization_id=organization.id, role="owner")
        await member_repository.add_membership(session, self._new_id("mem"), owner_user_id, owner, now)
        await self._organization_created.organization_created(session, organization.id, self._settings.currency)
        await publish_organization(session, organization)
        await publish_project(session, project)
        return organization

    async def create(self, session: AsyncSession, caller: Caller, name: str) -> Organization:
        """A further organization of a signed-in person. Each has a starting credit, so there are only so many."""
        if caller.user_id is None or (caller.kind == "key" and not caller.is_operator):
            raise PermissionDenied("an organization is made by a person", hint="sign in, then make it")
        await require_verified(session, self._settings, caller)
        made = await repository.count_organizations_created_by(session, caller.user_id)
        most = self._settings.organizations_per_user_max
        if made >= most and not caller.is_operator:
            raise Conflict(f"you made {made} organizations, which is the most", code="too_many")
        return await self.found(session, name, caller.user_id)

    async def list_organizations(self, session: AsyncSession, caller: Caller, page: PageRequest) -> list[Organization]:
        """Those the caller belongs to; all of them for operators."""
        mine = frozenset(membership.organization_id for membership in caller.memberships)
        return await repository.list_organizations(session, page, None if caller.is_operator else mine)

    async def get(self, session: AsyncSession, caller: Caller, organization_id: str) -> Organization:
        """Any member may, of one project too."""
        organization = await repository.organization_by_id(session, organization_id)
        if organization is None or not caller.belongs_to(organization_id):
            raise NotFound(f"there is no organization '{organization_id}'")
        return organization

    async def update(
        self, session: AsyncSession, caller: Caller, organization_id: str, changes: dict[str, Any]
    ) -> Organization:
        """`changes`: name, limits and guardrails, the owners' to set; ceiling, the operators'."""
        caller.require("organization:write", organization_id)
        if "ceiling" in changes:
            caller.require_operator()
        return await self._change(session, organization_id, changes)

    async def set_suspended(
        self, session: AsyncSession, caller: Caller, organization_id: str, reason: str | None
    ) -> Organization:
        """What operators do by hand: a reason suspends, None lifts that."""
        caller.require_operator()
        return await self._change(session, organization_id, {"operator_suspended_reason": reason})

    async def create_project(
        self,
        session: AsyncSession,
        caller: Caller,
        organization_id: str,
        name: str,
        limits: Limits,
        *,
        fallbacks: dict[str, list[str]],
        strict: bool,
        guardrails: Guardrails,
    ) -> Project:
        caller.require("projects:write", organization_id)
        if await repository.organization_by_id(session, organization_id, lock=True) is None:
            raise NotFound(f"there is no organization '{organization_id}'")
        most = self._settings.projects_per_organization_max
        if await repository.count_projects(session, organization_id) >= most:
            raise Conflict(f"there are {most} projects, which is the most", code="too_many", hint="archive some first")
        project = Project(
            id=self._new_id("proj"),
            organization_id=organization_id,
            name=name,
            limits=limits,
            created_at=self._clock.now(),
            archived_at=None,
            fallbacks=fallbacks,
            strict=strict,
            guardrails=guardrails,
        )
        await repository.add_project(session, project)
        await publish_project(session, project)
        return project

    async def list_projects(
        self, session: AsyncSession, caller: Caller, page: PageRequest, organization_id: str | None
    ) -> list[Project]:
        """Those the caller can see, of one organization or of all."""
        if organization_id is not None:
            await self.get(session, caller, organization_id)
        reach = caller.reach("projects:read")
        return await repository.list_projects(
            session,
            page,
            organization_id=organization_id,
            organizations=None if reach.everywhere else reach.organization_ids,
            projects=reach.project_ids,
        )

    async def get_project(self, session: AsyncSession, caller: Caller, project_id: str) -> Project:
        """Archived ones too, for the books."""
        project = await repository.project_by_id(session, project_id)
        missing = f"there is no project '{project_id}'"
        if project is None:
            raise NotFound(missing)
        caller.require("projects:read", project.organization_id, project.id, missing=missing)
        return project

    async def update_project(
        self, session: AsyncSession, caller: Caller, project_id: str, changes: dict[str, Any]
    ) -> Project:
        """`changes`: name, limits, fallbacks, strict, guardrails."""
        project = await self._live_project(session, caller, project_id)
        changed = msgspec.structs.replace(project, **changes)
        if changes:
            await repository.update_project(session, project_id, changes)
            await publish_project(session, changed)
        return changed

    async def archive_project(self, session: AsyncSession, caller: Caller, project_id: str) -> None:
        """Revokes its keys, ends its members' roles, and withdraws all of it from the gateways."""
        project = await self._live_project(session, caller, project_id)
        now = self._clock.now()
        await repository.update_project(session, project_id, {"archived_at": now})
        revoked = await key_repository.revoke_keys_of_project(session, project_id, now)
        await member_repository.delete_project_memberships(session, project_id)
        for key_id in revoked:
            await withdraw_key(session, key_id)
        await publish_project(session, msgspec.structs.replace(project, archived_at=now))

    async def _live_project(self, session: AsyncSession, caller: Caller, project_id: str) -> Project:
        project = await repository.project_by_id(session, project_id, lock=True)
        missing = f"there is no project '{project_id}'"
        if project is None:
            raise NotFound(missing)
        caller.require("projects:write", project.organization_id, project.id, missing=missing)
        if project.archived_at is not None:
            raise Conflict(f"the project '{project.name}' is archived", code="archived")
        return project

    async def _change(self, session: AsyncSession, organization_id: str, changes: dict[str, Any]) -> Organization:
        organization = await repository.organization_by_id(session, organization_id, lock=True)
        if organization is None:
            raise NotFound(f"there is no organization '{organization_id}'")
        changed = msgspec.structs.replace(organization, **changes)
        if changed != organization:
            await repository.update_organization(session, organization_id, changes)
            await publish_organization(session, changed)
        return changed
