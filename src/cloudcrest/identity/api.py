"""The public face of identity: who calls, what they may do, and what the gateway needs to know of them."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from cloudcrest.kernel.errors import NotFound, PermissionDenied

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

Role = Literal["owner", "admin", "developer", "billing", "viewer"]
Scope = Literal["inference", "management"]

Permission = Literal[
    "organization:read",
    "organization:write",
    "members:read",
    "members:write",
    "projects:read",
    "projects:write",
    "keys:read",
    "keys:write",
    "deployments:read",
    "jobs:read",
    "jobs:write",
    "usage:read",
    "billing:read",
    "billing:write",
]

_READ: frozenset[Permission] = frozenset(
    {"organization:read", "members:read", "projects:read", "deployments:read", "jobs:read"}
)
_DEVELOP: frozenset[Permission] = _READ | {"keys:read", "keys:write", "usage:read", "jobs:write"}
_PAY: frozenset[Permission] = _READ | {"usage:read", "billing:read", "billing:write"}
_ADMINISTER: frozenset[Permission] = _DEVELOP | {"members:write", "projects:write", "billing:read"}

ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    "owner": _ADMINISTER | _PAY | {"organization:write"},
    "admin": _ADMINISTER,
    "developer": _DEVELOP,
    "billing": _PAY,
    "viewer": _READ | {"usage:read"},
}

KEY_KIND = "key"
PROJECT_KIND = "project"
ORGANIZATION_KIND = "organization"

DEFAULT_ORGANIZATION_ID = "org_00000000000000000000000001"
"""The organization seeded for the first key."""
SYSTEM_ORGANIZATION_ID = "org_00000000000000000000000002"
"""Cloudcrest's own: its probe key asks whether models answer."""


GROWTH_FLOOR_REQUESTS_PER_MINUTE = 60
"""Up to this rate growth is not limited, where a limit on it names no floor."""


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits of a key, project, organization or model. None means no limit of its own.

    `request_timeout_seconds`: how long each request may take from its last byte in to its last byte out.
    `growth_percent_per_minute`: how much faster requests may come from minute to minute, once they come faster than the
    floor. `max_wait_seconds`: how long a request over a limit waits for room, where it says nothing of it.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    request_timeout_seconds: int | None = None
    growth_percent_per_minute: int | None = None
    growth_floor_requests_per_minute: int | None = None
    max_wait_seconds: int | None = None


GuardrailStage = Literal["input", "output"]
GuardrailAction = Literal["off", "flag", "redact", "block"]

GUARDRAIL_GROUPS: dict[str, tuple[str, ...]] = {
    "pii": ("email", "phone", "card", "iban", "passport", "national_id", "ip_address"),
    "secrets": ("secret",),
    "moderation": ("harassment", "hate", "illicit", "self-harm", "sexual", "violence"),
}
"""What guardrails look for, by group: a rule names a group or one of its kinds."""
GUARDRAIL_KINDS: tuple[str, ...] = tuple(kind for kinds in GUARDRAIL_GROUPS.values() for kind in kinds)


class Guardrails(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is done about what is found in requests and in answers, by kind or group. What is not named is off.

    Moderation flags or blocks: there is nothing to redact.
    """

    input: dict[str, GuardrailAction] = {}
    output: dict[str, GuardrailAction] = {}


class OrganizationDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a gateway knows of an organization. `suspended_reason` set: nothing is served, the caller is told why.

    `guardrails`: the least that holds in all its projects.
    """

    id: str
    limits: Limits = Limits()
    suspended_reason: str | None = None
    guardrails: Guardrails = Guardrails()


class ProjectDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """`fallbacks`: by public model name, the models that answer in its place, in order, where it cannot.

    Not `strict`: parameters that nobody honours are dropped in place of refused.
    """

    id: str
    organization_id: str
    limits: Limits = Limits()
    fallbacks: dict[str, tuple[str, ...]] = {}
    strict: bool = True
    guardrails: Guardrails = Guardrails()


class KeyDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """An API key as gateways know it: never the secret, only the SHA-256 (hex) of the whole key string.

    `models`: the public model names it may use, None for all. `expires_at_unix_seconds`: None for never.
    Revoked and deleted keys have no document.
    """

    id: str
    key_sha256: str
    project_id: str
    organization_id: str
    scopes: tuple[Scope, ...] = ("inference",)
    models: tuple[str, ...] | None = None
    expires_at_unix_seconds: int | None = None
    limits: Limits = Limits()


class OrganizationCreated(Protocol):
    """What happens, in the same transaction, when an organization comes to be: billing opens its account."""

    async def organization_created(self, session: "AsyncSession", organization_id: str, currency: str) -> None:
        """Called once per organization, after its row is written. `currency`: ISO 4217, three capitals."""
        ...


class Owners(Protocol):
    """Whose projects and keys are, for slices that hang something on them; inside the caller's transaction."""

    async def of_project(self, session: "AsyncSession", project_id: str) -> str | None:
        """The organization of a project; None: there is none of this id."""
        ...

    async def of_key(self, session: "AsyncSession", key_id: str) -> tuple[str, str] | None:
        """The organization and project of a key that is not revoked."""
        ...


class Standing(Protocol):
    """Which projects are served, for slices that run something for them; inside the caller's transaction."""

    async def stopped(self, session: "AsyncSession", project_ids: Collection[str]) -> Mapping[str, str]:
        """Those of these projects that are to run nothing, each with why: archived, or its organization suspended."""
        ...


class Membership(msgspec.Struct, frozen=True):
    """A role in an organization, or in one of its projects alone."""

    organization_id: str
    role: Role
    project_id: str | None = None


class Reach(msgspec.Struct, frozen=True):
    """Where a caller holds a permission: everywhere, or in these whole organizations and these single projects."""

    everywhere: bool
    organization_ids: frozenset[str] = frozenset()
    project_ids: frozenset[str] = frozenset()


class Caller(msgspec.Struct, frozen=True):
    """Who makes a management call: a person (session cookie) or an API key with the `management` scope.

    `is_operator`: runs the cloud; may do everything in every organization and owns what is platform-wide
    (deployments, catalog, rate cards, regions).
    """

    kind: Literal["user", "key"]
    id: str
    memberships: tuple[Membership, ...] = ()
    is_operator: bool = False
    user_id: str | None = None

    def may(self, permission: Permission, organization_id: str, project_id: str | None = None) -> bool:
        """Whether a role of this caller grants `permission` there."""
        return self.is_operator or any(
            permission in ROLE_PERMISSIONS[membership.role]
            for membership in self._roles_in(organization_id, project_id)
        )

    def require(
        self, permission: Permission, organization_id: str, project_id: str | None = None, *, missing: str | None = None
    ) -> None:
        """Raises `NotFound` where the caller is no member (nothing leaks), `PermissionDenied` where the role lacks it.

        `missing` is what `NotFound` says; give the words used for a thing that does not exist at all.
        """
        if self.may(permission, organization_id, project_id):
            return
        visible = self._roles_in(organization_id, project_id) if project_id else self.belongs_to(organization_id)
        if not visible:
            raise NotFound(missing or f"there is no organization '{organization_id}'")
        raise PermissionDenied(f"your role does not include {permission}", hint="ask an owner or admin")

    def belongs_to(self, organization_id: str) -> bool:
        """Whether the caller has any role in the organization or in one of its projects."""
        return self.is_operator or any(item.organization_id == organization_id for item in self.memberships)

    def reach(self, permission: Permission) -> Reach:
        """Where the caller holds `permission`; for the where clause of a list."""
        held = [item for item in self.memberships if permission in ROLE_PERMISSIONS[item.role]]
        return Reach(
            everywhere=self.is_operator,
            organization_ids=frozenset(item.organization_id for item in held if item.project_id is None),
            project_ids=frozenset(item.project_id for item in held if item.project_id is not None),
        )

    def require_operator(self) -> None:
        """Raises `PermissionDenied` unless the caller runs this cloud."""
        if not self.is_operator:
            raise PermissionDenied("only operators of this cloud may do this")

    def _roles_in(self, organization_id: str, project_id: str | None) -> list[Membership]:
        return [
            membership
            for membership in self.memberships
            if membership.organization_id == organization_id
            and (membership.project_id is None or membership.project_id == project_id)
        ]
