"""Tables of identity: people, their sessions, organizations, projects, members, API keys, invitations."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from cloudcrest.infra.database import Base


class UserRow(Base):
    """A person. `email` is lower case. Without a `password_hash`, a password reset sets the first one.

    `email_verified_at` null: nobody has proved yet that the address is theirs.
    """

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    password_hash: Mapped[str | None]
    is_operator: Mapped[bool]
    created_at: Mapped[datetime]
    email_verified_at: Mapped[datetime | None]


class SessionRow(Base):
    """A signed-in browser, known by the SHA-256 (hex) of its cookie."""

    __tablename__ = "sessions"

    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class PasswordResetRow(Base):
    """The one open password reset of a person: a newer one replaces it, its use deletes it."""

    __tablename__ = "password_resets"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    token_sha256: Mapped[str] = mapped_column(unique=True)
    expires_at: Mapped[datetime]


class EmailVerificationRow(Base):
    """The one open verification of a person's address: a newer one replaces it, its use deletes it."""

    __tablename__ = "email_verifications"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    token_sha256: Mapped[str] = mapped_column(unique=True)
    expires_at: Mapped[datetime]


class ExternalIdentityRow(Base):
    """A person's account at an OpenID Connect provider: `subject` is what the provider calls them."""

    __tablename__ = "external_identities"

    issuer: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]


class UsedSignInStateRow(Base):
    """A sign-in through the provider that has come back: it does so once. Kept for as long as it could."""

    __tablename__ = "used_sign_in_states"

    state_sha256: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class OrganizationRow(Base):
    """A tenant. `limits` are its own choice, `ceiling` the operator's; the tighter of both holds.

    `guardrails`: the least that holds in all its projects.
    `operator_suspended_reason`: null where it is not suspended. `balance_suspended_reason` is of an older version that
    suspended for want of balance; nobody reads it any more.
    """

    __tablename__ = "organizations"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    limits: Mapped[dict[str, Any]] = mapped_column(JSONB)
    ceiling: Mapped[dict[str, Any]] = mapped_column(JSONB)
    guardrails: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    operator_suspended_reason: Mapped[str | None]
    balance_suspended_reason: Mapped[str | None]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime]


class ProjectRow(Base):
    """A part of an organization that owns keys. Archived ones stay for the books."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), index=True)
    name: Mapped[str]
    limits: Mapped[dict[str, Any]] = mapped_column(JSONB)
    fallbacks: Mapped[dict[str, list[str]]] = mapped_column(JSONB, server_default="{}")
    strict: Mapped[bool] = mapped_column(server_default="true")
    guardrails: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    created_at: Mapped[datetime]
    archived_at: Mapped[datetime | None]


class MembershipRow(Base):
    """A person's role in an organization (`project_id` null) or in one of its projects."""

    __tablename__ = "memberships"
    __table_args__ = (UniqueConstraint("organization_id", "user_id", "project_id", postgresql_nulls_not_distinct=True),)

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"))
    role: Mapped[str]
    created_at: Mapped[datetime]


class ApiKeyRow(Base):
    """An API key: the SHA-256 (hex) of the secret, and its first characters for people to recognise it by."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)
    name: Mapped[str]
    prefix: Mapped[str]
    key_sha256: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    models: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    labels: Mapped[dict[str, str]] = mapped_column(JSONB)
    limits: Mapped[dict[str, Any]] = mapped_column(JSONB)
    organization_wide: Mapped[bool]
    is_operator: Mapped[bool]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class InvitationRow(Base):
    """An invitation to a role, taken once by who holds its link; known by the SHA-256 (hex) of the link's token."""

    __tablename__ = "invitations"

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), index=True)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"), index=True)
    role: Mapped[str]
    email: Mapped[str | None]
    token_sha256: Mapped[str] = mapped_column(unique=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    by_operator: Mapped[bool]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    accepted_at: Mapped[datetime | None]
