"""Mailed links: a person has at most one open of each kind, known by the SHA-256 (hex) of its token."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.tables import EmailVerificationRow, PasswordResetRow

Kind = type[PasswordResetRow] | type[EmailVerificationRow]
PASSWORD_RESET: Kind = PasswordResetRow
EMAIL_VERIFICATION: Kind = EmailVerificationRow


async def put_link(session: AsyncSession, kind: Kind, user_id: str, token_sha256: str, expires_at: datetime) -> None:
    """Opens a person's link, in place of an earlier one."""
    statement = insert(kind).values(user_id=user_id, token_sha256=token_sha256, expires_at=expires_at)
    changed = {"token_sha256": statement.excluded.token_sha256, "expires_at": statement.excluded.expires_at}
    await session.execute(statement.on_conflict_do_update(index_elements=["user_id"], set_=changed))


async def has_link(session: AsyncSession, kind: Kind, token_sha256: str, now: datetime) -> bool:
    """Whether there is such an open link."""
    statement = select(kind.user_id).where(kind.token_sha256 == token_sha256, kind.expires_at > now)
    return (await session.execute(statement)).scalar_one_or_none() is not None


async def take_link(session: AsyncSession, kind: Kind, token_sha256: str, now: datetime) -> str | None:
    """Uses a link up; the id of whose it was, None where there is no such open one."""
    statement = delete(kind).where(kind.token_sha256 == token_sha256, kind.expires_at > now).returning(kind.user_id)
    return (await session.execute(statement)).scalar_one_or_none()


async def delete_link_of(session: AsyncSession, kind: Kind, user_id: str) -> None:
    await session.execute(delete(kind).where(kind.user_id == user_id))
