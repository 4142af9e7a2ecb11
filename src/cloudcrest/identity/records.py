"""What identity's repositories hand out: frozen copies of rows."""

from datetime import datetime

import msgspec

from cloudcrest.identity.api import SYSTEM_ORGANIZATION_ID, Guardrails, Limits, Role, Scope


class User(msgspec.Struct, frozen=True):
    id: str
    email: str
    name: str
    password_hash: str | None
    is_operator: bool
    created_at: datetime
    email_verified_at: datetime | None = None


class Session(msgspec.Struct, frozen=True):
    user_id: str
    expires_at: datetime


class Organization(msgspec.Struct, frozen=True):
    """`limits` are its own choice, `ceiling` the operator's; the tighter of both holds.

    `operator_suspended_reason`: why it is served nothing; None: it is served. `guardrails`: the least that holds in
    its projects.
    """

    id: str
    name: str
    limits: Limits
    ceiling: Limits
    created_at: datetime
    operator_suspended_reason: str | None = None
    guardrails: Guardrails = Guardrails()

    @property
    def suspended_reason(self) -> str | None:
        """As it is shown."""
        return self.operator_suspended_reason

    @property
    def is_system(self) -> bool:
        """Whether it is the cloud's own, which nobody works in."""
        return self.id == SYSTEM_ORGANIZATION_ID


class Project(msgspec.Struct, frozen=True):
    """`fallbacks`: by model, those that answer in its place, in order. Not `strict`: what nobody honours is dropped."""

    id: str
    organization_id: str
    name: str
    limits: Limits
    created_at: datetime
    archived_at: datetime | None
    fallbacks: dict[str, list[str]] = {}
    strict: bool = True
    guardrails: Guardrails = Guardrails()


class Member(msgspec.Struct, frozen=True):
    """A membership with who it is. `id` is the membership's."""

    id: str
    organization_id: str
    user_id: str
    project_id: str | None
    role: Role
    email: str
    name: str
    created_at: datetime


class ApiKey(msgspec.Struct, frozen=True):
    """`prefix`: the key's first characters, to recognise it by. The secret itself is nowhere."""

    id: str
    organization_id: str
    project_id: str
    created_by: str | None
    name: str
    prefix: str
    key_sha256: str
    scopes: tuple[Scope, ...]
    models: tuple[str, ...] | None
    labels: dict[str, str]
    limits: Limits
    organization_wide: bool
    is_operator: bool
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class Invitation(msgspec.Struct, frozen=True):
    id: str
    organization_id: str
    project_id: str | None
    role: Role
    email: str | None
    created_by: str | None
    by_operator: bool
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None
