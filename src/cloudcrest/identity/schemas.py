"""Bodies of identity's routes, as the OpenAPI document shows them."""

import re
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from fastapi import Path, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from cloudcrest.identity import api
from cloudcrest.identity.api import Role, Scope
from cloudcrest.identity.guardrail_schemas import Guardrails

# PostgreSQL keeps no NUL, and control characters have no place in names.
_PLAIN = r"^[^\x00-\x1f\x7f]+$"
_ID = r"^[a-z]{2,8}_[0-9a-z]{1,40}$"
EMAIL_PATTERN = r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,187}[A-Za-z0-9])?$"

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=_PLAIN, examples=["Research"])]


def _looks_like_an_address(value: object) -> object:
    """Says so in words before the pattern would show itself."""
    if isinstance(value, str) and not re.match(EMAIL_PATTERN, value):
        raise ValueError("is no e-mail address, as in ada@example.com")
    return value


Email = Annotated[
    str,
    Field(max_length=254, pattern=EMAIL_PATTERN, examples=["ada@example.com"]),
    BeforeValidator(_looks_like_an_address),
    AfterValidator(str.lower),
]


def _encodable(secret: SecretStr) -> SecretStr:
    """Half a surrogate pair is a string to JSON and no text to what hashes it; pydantic looks into no secret."""
    try:
        secret.get_secret_value().encode()
    except UnicodeEncodeError:
        raise ValueError("contains what is not text") from None
    return secret


Secret = Annotated[SecretStr, AfterValidator(_encodable)]
NewPassword = Annotated[Secret, Field(min_length=10, max_length=256, examples=["three unrelated words"])]
Password = Annotated[Secret, Field(min_length=1, max_length=256, examples=["three unrelated words"])]
Token = Annotated[Secret, Field(min_length=1, max_length=200, examples=["gq0X…"])]
ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern=_PLAIN, examples=["smollm2-135m-instruct"])]
LabelName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=32, examples=[{"team": "search"}])]
Models = Annotated[list[ModelName], Field(max_length=200, examples=[["smollm2-135m-instruct"]])]
Scopes = Annotated[list[Scope], Field(min_length=1, max_length=2, examples=[["inference"]])]
Others = Annotated[list[ModelName], Field(min_length=1, max_length=5)]


def _name_others(fallbacks: dict[str, list[str]]) -> dict[str, list[str]]:
    """Those of a fallback are not asked in turn, so there are no circles beyond this one."""
    for model, others in fallbacks.items():
        if model in others:
            raise ValueError(f"'{model}' cannot answer in its own place")
        if len(set(others)) < len(others):
            raise ValueError(f"a model is named twice for '{model}'")
    return fallbacks


Strict = Annotated[
    bool, Field(description="false: parameters that no engine honours are dropped in place of refused", examples=[True])
]
Fallbacks = Annotated[
    dict[ModelName, Others],
    AfterValidator(_name_others),
    Field(
        max_length=100,
        examples=[{"qwen3-8b": ["qwen3-1.7b"]}],
        description="By model: those that answer in its place, in order, where it cannot",
    ),
]
Limit = Annotated[int, Field(ge=1, le=1_000_000_000_000)]


def id_field(prefix: str) -> str:
    """An example id."""
    return f"{prefix}_01k9zq3v5e8m2n4p6r8t0w2y4z"


OrganizationId = Annotated[str, Field(pattern=_ID, examples=[id_field("org")])]
ProjectId = Annotated[str, Field(pattern=_ID, examples=[id_field("proj")])]
UserId = Annotated[str, Field(pattern=_ID, examples=[id_field("user")])]
OrganizationPath = Annotated[str, Path(pattern=_ID, examples=[id_field("org")])]
ProjectPath = Annotated[str, Path(pattern=_ID, examples=[id_field("proj")])]
KeyPath = Annotated[str, Path(pattern=_ID, examples=[id_field("key")])]
UserPath = Annotated[str, Path(pattern=_ID, examples=[id_field("user")])]
MemberPath = Annotated[str, Path(pattern=_ID, examples=[id_field("mem")])]
InvitationPath = Annotated[str, Path(pattern=_ID, examples=[id_field("inv")])]
OrganizationFilter = Annotated[str | None, Query(pattern=_ID, description="Only of this organization")]
ProjectFilter = Annotated[str | None, Query(pattern=_ID, description="Only of this project")]


class In(BaseModel):
    """What callers send: unknown fields are refused, so that a typo is not a silent default."""

    model_config = ConfigDict(extra="forbid")


class Out(BaseModel):
    """What callers get, read from identity's records."""

    model_config = ConfigDict(from_attributes=True)


class Limits(BaseModel):
    """Null is no limit of its own. The tightest of key, project, organization and model holds."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")

    requests_per_minute: Limit | None = Field(default=None, examples=[600])
    tokens_per_minute: Limit | None = Field(default=None, examples=[100_000])
    concurrent_requests: Limit | None = Field(default=None, examples=[8])
    request_timeout_seconds: Limit | None = Field(
        default=None, examples=[120], description="How long a request may take"
    )
    growth_percent_per_minute: Limit | None = Field(
        default=None, examples=[100], description="How much faster requests may come from minute to minute"
    )
    growth_floor_requests_per_minute: Limit | None = Field(
        default=None, examples=[60], description="Up to this rate growth is not limited; 60 where it is null"
    )
    max_wait_seconds: Limit | None = Field(
        default=None,
        examples=[10],
        description="How long a request over a limit waits for room, where it has no x-cloudcrest-max-wait of its own",
    )

    def to_api(self) -> api.Limits:
        """The same as the gateway knows them."""
        return msgspec.convert(self.model_dump(), api.Limits)


class RegisterIn(In):
    email: Email
    password: NewPassword
    name: Name
    organization_name: Name | None = None


class LoginIn(In):
    email: Email
    password: Password


class PasswordChangeIn(In):
    present_password: Password
    new_password: NewPassword


class PasswordResetIn(In):
    email: Email


class PasswordResetConfirmIn(In):
    token: Token
    new_password: NewPassword


class EmailVerificationIn(In):
    """`token`: what stands after `#token=` in the mailed link."""

    token: Token


class ProviderOut(Out):
    """The identity provider: open `login_url` in the browser, with `?return_to=` a path of this cloud."""

    name: str = Field(examples=["Example Inc."])
    login_url: str = Field(examples=["/api/v1/auth/oidc/login"])


class UserOut(Out):
    id: str = Field(examples=[id_field("user")])
    email: str = Field(examples=["ada@example.com"])
    name: str = Field(examples=["Ada"])
    is_operator: bool
    created_at: datetime
    email_verified_at: datetime | None


class UserChange(In):
    is_operator: bool


class SessionOut(Out):
    """A signed-in session. Send `csrf_token` in the header `x-csrf-token` with every write."""

    user: UserOut
    csrf_token: str = Field(examples=["9f86d081884c7d65…"])


class NewSessionOut(SessionOut):
    expires_at: datetime


class RegisteredOut(NewSessionOut):
    organization_id: str = Field(examples=[id_field("org")])


class OrganizationIn(In):
    name: Name


class OrganizationChange(In):
    """What is left out stays. `ceiling` is for operators: the organization's own limits cannot pass it. `guardrails`
    are the least of all its projects.
    """

    name: Name = ""
    limits: Limits = Limits()
    ceiling: Limits = Limits()
    guardrails: Guardrails = Guardrails()


class SuspensionIn(In):
    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=_PLAIN, examples=["the balance is used up"])]


class OrganizationOut(Out):
    """`is_system`: the cloud's own, in which its operators' keys and probes are."""

    id: str = Field(examples=[id_field("org")])
    name: str = Field(examples=["Research"])
    limits: Limits
    ceiling: Limits
    guardrails: Guardrails
    suspended_reason: str | None
    is_system: bool
    created_at: datetime


class ProjectIn(In):
    organization_id: OrganizationId
    name: Name
    limits: Limits = Limits()
    fallbacks: Fallbacks = {}
    strict: Strict = True
    guardrails: Guardrails = Guardrails()


class ProjectChange(In):
    """What is left out stays; `fallbacks` and `guardrails` that are given replace all there are."""

    name: Name = ""
    limits: Limits = Limits()
    fallbacks: Fallbacks = {}
    strict: Strict = True
    guardrails: Guardrails = Guardrails()


class ProjectOut(Out):
    """`fallbacks`: by model, those that answer in its place, in order, where it cannot."""

    id: str = Field(examples=[id_field("proj")])
    organization_id: str = Field(examples=[id_field("org")])
    name: str = Field(examples=["default"])
    limits: Limits
    fallbacks: dict[str, list[str]] = Field(examples=[{"qwen3-8b": ["qwen3-1.7b"]}])
    strict: Strict
    guardrails: Guardrails
    created_at: datetime
    archived_at: datetime | None


class MemberIn(In):
    """A further role for someone who is in the organization already."""

    user_id: UserId
    role: Role
    project_id: ProjectId | None = None


class MemberChange(In):
    role: Role


class MemberOut(Out):
    """A role; `project_id` null: in the whole organization."""

    id: str = Field(examples=[id_field("mem")])
    organization_id: str = Field(examples=[id_field("org")])
    user_id: str = Field(examples=[id_field("user")])
    project_id: str | None
    role: Role
    email: str = Field(examples=["ada@example.com"])
    name: str = Field(examples=["Ada"])
    created_at: datetime


class InvitationIn(In):
    """With `email`, the link is mailed and only that address can take it; without, whoever has the link can."""

    role: Role
    project_id: ProjectId | None = None
    email: Email | None = None


class InvitationOut(Out):
    id: str = Field(examples=[id_field("inv")])
    organization_id: str = Field(examples=[id_field("org")])
    project_id: str | None
    role: Role
    email: str | None
    created_by: str | None
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None


class NewInvitationOut(InvitationOut):
    """`link` is shown this once; what stands after `#token=` is what POST /invitations/accept takes."""

    link: str = Field(examples=["https://cloud.example.com/invitations#token=gq0X…"])


class AccountIn(In):
    email: Email
    name: Name
    password: NewPassword


class AcceptIn(In):
    """`account` makes a new account; leave it out to accept as the signed-in person."""

    token: Token
    account: AccountIn | None = None


class KeyIn(In):
    """`models` null: all. `organization_wide`: its management reaches beyond its project. `expires_at` null: never."""

    project_id: ProjectId
    name: Name
    scopes: Scopes = ["inference"]
    models: Models | None = None
    labels: Labels = {}
    limits: Limits = Limits()
    expires_at: AwareDatetime | None = None
    organization_wide: bool = False
    is_operator: bool = False


class KeyChange(In):
    """What is left out stays; scopes never change."""

    name: Name = ""
    models: Models | None = None
    labels: Labels = {}
    limits: Limits = Limits()
    expires_at: AwareDatetime | None = None


class KeyOut(Out):
    id: str = Field(examples=[id_field("key")])
    organization_id: str = Field(examples=[id_field("org")])
    project_id: str = Field(examples=[id_field("proj")])
    created_by: str | None
    name: str = Field(examples=["search in production"])
    prefix: str = Field(examples=["sk-cc-gq0X1y"], description="The key's first characters")
    scopes: list[Scope]
    models: list[str] | None
    labels: dict[str, str]
    limits: Limits
    organization_wide: bool
    is_operator: bool
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKeyOut(KeyOut):
    """`key` is shown this once: only its hash is kept."""

    key: str = Field(examples=["sk-cc-gq0X1y…"])


class MembershipOut(Out):
    organization_id: str = Field(examples=[id_field("org")])
    role: Role
    project_id: str | None


class MeOut(Out):
    """Who the credentials belong to, and where they reach."""

    kind: Literal["user", "key"]
    id: str = Field(examples=[id_field("key")])
    is_operator: bool
    user: UserOut | None
    memberships: list[MembershipOut]
