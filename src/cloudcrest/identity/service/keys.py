"""API keys: made, listed, changed, revoked."""

from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.api import Caller, Limits, Permission, Scope
from cloudcrest.identity.documents import publish_key, withdraw_key
from cloudcrest.identity.records import ApiKey, Project
from cloudcrest.identity.repository import keys as repository
from cloudcrest.identity.repository import organizations as organization_repository
from cloudcrest.identity.service.verification import require_verified
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.identity.tokens import KEY_START, NewSecret, sha256_hex, shown_prefix
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, NotFound
from cloudcrest.kernel.ids import NewId

LIFETIME_MAX = timedelta(days=3660)


class KeyDraft(msgspec.Struct, frozen=True):
    """What a new key is to be. `organization_wide`: as a management key it acts beyond its own project."""

    project_id: str
    name: str
    scopes: tuple[Scope, ...] = ("inference",)
    models: tuple[str, ...] | None = None
    labels: dict[str, str] = {}
    limits: Limits = Limits()
    expires_at: datetime | None = None
    organization_wide: bool = False
    is_operator: bool = False


class KeyService:
    """A secret leaves here once, when it is made. Scopes never change: who knows the secret would gain them.

    `seeded`: the SHA-256 of keys that a start makes where they are missing. A revoked one of them is never forgotten,
    for it would come back.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        new_id: NewId,
        settings: IdentitySettings,
        new_secret: NewSecret,
        seeded: frozenset[str] = frozenset(),
    ) -> None:
        self._clock = clock
        self._new_id = new_id
        self._settings = settings
        self._new_secret = new_secret
        self._seeded = seeded

    async def create(self, session: AsyncSession, caller: Caller, draft: KeyDraft) -> tuple[ApiKey, str]:
        """The key and its secret."""
        project = await self._project(session, caller, draft.project_id, "keys:write", lock=True)
        if project.archived_at is not None:
            raise Conflict(f"the project '{project.name}' is archived", code="archived")
        if draft.organization_wide:
            caller.require("keys:write", project.organization_id)
        if draft.is_operator:
            caller.require_operator()
        await require_verified(session, self._settings, caller)
        self._check(draft)
        most = self._settings.keys_per_project_max
        if await repository.count_live_keys(session, project.id) >= most:
            raise Conflict(f"there are {most} keys, which is the most", code="too_many", hint="revoke some first")
        return await self.write(session, draft, project.organization_id, caller.user_id, KEY_START + self._new_secret())

    async def write(
        self, session: AsyncSession, draft: KeyDraft, organization_id: str, created_by: str | None, secret: str
    ) -> tuple[ApiKey, str]:
        """Writes and publishes a key whose rules have been checked."""
        key = ApiKey(
            id=self._new_id("key"),
            organization_id=organization_id,
            project_id=draft.project_id,
            created_by=created_by,
            name=draft.name,
            prefix=shown_prefix(secret),
            key_sha256=sha256_hex(secret),
            scopes=draft.scopes,
            models=draft.models,
            labels=draft.labels,
            limits=draft.limits,
            organization_wide=draft.organization_wide,
            is_operator=draft.is_operator,
            created_at=self._clock.now(),
            expires_at=draft.expires_at,
            revoked_at=None,
        )
        await repository.add_key(session, key)
        await publish_key(session, key)
        return key, secret

    async def list_keys(
        self,
        session: AsyncSession,
        caller: Caller,
        page: PageRequest,
        *,
        organization_id: str | None,
        project_id: str | None,
    ) -> list[ApiKey]:
        """Those the caller may read, revoked ones too."""
        if organization_id is not None and not caller.belongs_to(organization_id):
            raise NotFound(f"there is no organization '{organization_id}'")
        if project_id is not None:
            await self._project(session, caller, project_id, "keys:read")
        reach = caller.reach("keys:read")
        return await repository.list_keys(
            session,
            page,
            organization_id=organization_id,
            project_id=project_id,
            organizations=None if reach.everywhere else reach.organization_ids,
            projects=reach.project_ids,
        )

    async def get(self, session: AsyncSession, caller: Caller, key_id: str) -> ApiKey:
        return await self._key(session, caller, key_id, "keys:read")

    async def update(self, session: AsyncSession, caller: Caller, key_id: str, changes: dict[str, Any]) -> ApiKey:
        """`changes`: name, labels, limits, models, expires_at. Raises `Conflict` for a revoked key."""
        key = await self._key(session, caller, key_id, "keys:write", lock=True)
        if key.revoked_at is not None:
            raise Conflict("this key is revoked", code="revoked", hint="make a new one")
        self._check_expiry(changes.get("expires_at"))
        changed = msgspec.structs.replace(key, **changes)
        if changed != key:
            await repository.update_key(session, key_id, changes)
            await publish_key(session, changed)
        return changed

    async def revoke(self, session: AsyncSession, caller: Caller, key_id: str) -> None:
        """For good, on every gateway within a second. Again is not an error."""
        key = await self._key(session, caller, key_id, "keys:write", lock=True)
        if key.revoked_at is None:
            await repository.update_key(session, key_id, {"revoked_at": self._clock.now()})
            await withdraw_key(session, key_id)

    async def forget_revoked(self, session: AsyncSession) -> int:
        """Deletes keys that were revoked long ago; how many. Their usage stays, under their ids."""
        before = self._clock.now() - timedelta(days=self._settings.revoked_key_kept_days)
        return await repository.delete_revoked(session, before, self._seeded)

    async def _key(
        self, session: AsyncSession, caller: Caller, key_id: str, permission: Permission, *, lock: bool = False
    ) -> ApiKey:
        key = await repository.key_by_id(session, key_id, lock=lock)
        missing = f"there is no key '{key_id}'"
        if key is None:
            raise NotFound(missing)
        caller.require(permission, key.organization_id, key.project_id, missing=missing)
        return key

    async def _project(
        self, session: AsyncSession, caller: Caller, project_id: str, permission: Permission, *, lock: bool = False
    ) -> Project:
        project = await organization_repository.project_by_id(session, project_id, lock=lock)
        missing = f"there is no project '{project_id}'"
        if project is None:
            raise NotFound(missing)
        caller.require(permission, project.organization_id, project.id, missing=missing)
        return project

    def _check(self, draft: KeyDraft) -> None:
        self._check_expiry(draft.expires_at)
        if (draft.organization_wide or draft.is_operator) and "management" not in draft.scopes:
            raise InvalidInput(
                "organization_wide and is_operator are about management",
                param="body.scopes",
                hint='add "management" to scopes',
            )

    def _check_expiry(self, expires_at: datetime | None) -> None:
        now = self._clock.now()
        if expires_at is not None and not now < expires_at <= now + LIFETIME_MAX:
            raise InvalidInput(
                "expires_at lies within the next ten years", param="body.expires_at", hint="leave it out for never"
            )
