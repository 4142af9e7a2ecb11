"""People and their sessions."""

from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.records import Session, User
from cloudcrest.identity.tables import SessionRow, UserRow
from cloudcrest.infra.http.paging import PageRequest

SESSIONS_PER_USER_MAX = 20
_OPERATORS_LOCK = 0x6F70657261


async def add_user(session: AsyncSession, user: User) -> bool:
    """Writes a new person; False where the e-mail address is taken."""
    values = {
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "password_hash": user.password_hash,
        "is_operator": user.is_operator,
        "created_at": user.created_at,
        "email_verified_at": user.email_verified_at,
    }
    statement = insert(UserRow).values(values).on_conflict_do_nothing(index_elements=["email"]).returning(UserRow.id)
    return (await session.execute(statement)).scalar_one_or_none() is not None


async def user_by_email(session: AsyncSession, email: str) -> User | None:
    """`email` in lower case."""
    row = (await session.execute(select(UserRow).where(UserRow.email == email))).scalar_one_or_none()
    return None if row is None else _user(row)


async def user_by_id(session: AsyncSession, user_id: str) -> User | None:
    row = (await session.execute(select(UserRow).where(UserRow.id == user_id))).scalar_one_or_none()
    return None if row is None else _user(row)


async def set_password_hash(session: AsyncSession, user_id: str, password_hash: str) -> None:
    await session.execute(update(UserRow).where(UserRow.id == user_id).values(password_hash=password_hash))


async def set_email_verified(session: AsyncSession, user_id: str, now: datetime) -> None:
    await session.execute(update(UserRow).where(UserRow.id == user_id).values(email_verified_at=now))


async def list_users(session: AsyncSession, page: PageRequest, email: str | None) -> list[User]:
    """Newest first; `email` in lower case."""
    statement = page.apply(select(UserRow), UserRow.id)
    if email is not None:
        statement = statement.where(UserRow.email == email)
    return [_user(row) for row in (await session.execute(statement)).scalars()]


async def lock_operators(session: AsyncSession) -> None:
    """Lets one change of operators happen at a time, so that counting them means something."""
    await session.execute(select(func.pg_advisory_xact_lock(_OPERATORS_LOCK)))


async def count_operators(session: AsyncSession) -> int:
    statement = select(func.count()).select_from(UserRow).where(UserRow.is_operator)
    return (await session.execute(statement)).scalar_one()


async def set_operator(session: AsyncSession, user_id: str, *, is_operator: bool) -> None:
    await session.execute(update(UserRow).where(UserRow.id == user_id).values(is_operator=is_operator))


async def add_session(
    session: AsyncSession, token_sha256: str, user_id: str, now: datetime, expires_at: datetime
) -> None:
    """Writes a session; a person's expired and oldest ones beyond 20 go."""
    await session.execute(delete(SessionRow).where(SessionRow.user_id == user_id, SessionRow.expires_at <= now))
    older = (
        select(SessionRow.token_sha256)
        .where(SessionRow.user_id == user_id)
        .order_by(SessionRow.created_at.desc())
        .offset(SESSIONS_PER_USER_MAX - 1)
    )
    await session.execute(delete(SessionRow).where(SessionRow.token_sha256.in_(older)))
    session.add(SessionRow(token_sha256=token_sha256, user_id=user_id, created_at=now, expires_at=expires_at))
    await session.flush()


async def find_session(session: AsyncSession, token_sha256: str, now: datetime) -> Session | None:
    """The session, unless it has expired."""
    statement = select(SessionRow).where(SessionRow.token_sha256 == token_sha256, SessionRow.expires_at > now)
    row = (await session.execute(statement)).scalar_one_or_none()
    return None if row is None else Session(user_id=row.user_id, expires_at=row.expires_at)


async def delete_session(session: AsyncSession, token_sha256: str) -> None:
    await session.execute(delete(SessionRow).where(SessionRow.token_sha256 == token_sha256))


async def delete_sessions_of(session: AsyncSession, user_id: str) -> None:
    await session.execute(delete(SessionRow).where(SessionRow.user_id == user_id))


def _user(row: UserRow) -> User:
    return User(
        id=row.id,
        email=row.email,
        name=row.name,
        password_hash=row.password_hash,
        is_operator=row.is_operator,
        created_at=row.created_at,
        email_verified_at=row.email_verified_at,
    )
