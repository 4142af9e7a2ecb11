"""Accounts at OpenID Connect providers, and the sign-ins that came back from there."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.tables import ExternalIdentityRow, UsedSignInStateRow

_PURGE_ROWS = 100


async def user_id_of(session: AsyncSession, issuer: str, subject: str) -> str | None:
    """Whose account it is here, None where it is nobody's."""
    statement = select(ExternalIdentityRow.user_id).where(
        ExternalIdentityRow.issuer == issuer, ExternalIdentityRow.subject == subject
    )
    return (await session.execute(statement)).scalar_one_or_none()


async def add_identity(session: AsyncSession, issuer: str, subject: str, user_id: str, now: datetime) -> bool:
    """Links it to a person; False where it is linked already, by a sign-in at the same moment."""
    values = {"issuer": issuer, "subject": subject, "user_id": user_id, "created_at": now}
    statement = insert(ExternalIdentityRow).values(values).on_conflict_do_nothing()
    return (await session.execute(statement.returning(ExternalIdentityRow.user_id))).scalar_one_or_none() is not None


async def delete_identities_of(session: AsyncSession, user_id: str) -> None:
    await session.execute(delete(ExternalIdentityRow).where(ExternalIdentityRow.user_id == user_id))


async def use_state(session: AsyncSession, state_sha256: str, expires_at: datetime, now: datetime) -> bool:
    """Notes that a sign-in came back; False where it did before. Forgets some that could not come back any more."""
    old = select(UsedSignInStateRow.state_sha256).where(UsedSignInStateRow.expires_at <= now).limit(_PURGE_ROWS)
    purge = delete(UsedSignInStateRow).where(
        UsedSignInStateRow.state_sha256.in_(old.with_for_update(skip_locked=True).scalar_subquery())
    )
    await session.execute(purge)
    values = {"state_sha256": state_sha256, "expires_at": expires_at}
    statement = insert(UsedSignInStateRow).values(values).on_conflict_do_nothing()
    return (
        await session.execute(statement.returning(UsedSignInStateRow.state_sha256))
    ).scalar_one_or_none() is not None
