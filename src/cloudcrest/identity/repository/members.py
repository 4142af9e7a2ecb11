"""Memberships and invitations."""

from datetime import datetime

import msgspec
from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.api import Membership, Role
from cloudcrest.identity.records import Invitation, Member
from cloudcrest.identity.tables import InvitationRow, MembershipRow, UserRow
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.kernel.errors import Conflict


async def memberships_of(session: AsyncSession, user_id: str) -> tuple[Membership, ...]:
    """Every role a person has."""
    statement = select(MembershipRow.organization_id, MembershipRow.role, MembershipRow.project_id).where(
        MembershipRow.user_id == user_id
    )
    return tuple(
        Membership(organization_id=organization_id, role=_role(role), project_id=project_id)
        for organization_id, role, project_id in await session.execute(statement)
    )


async def add_membership(
    session: AsyncSession, membership_id: str, user_id: str, membership: Membership, now: datetime
) -> None:
    """Writes a role. Raises `Conflict` where the person has one in that organization or project already."""
    values = {
        "id": membership_id,
        "organization_id": membership.organization_id,
        "user_id": user_id,
        "project_id": membership.project_id,
        "role": membership.role,
        "created_at": now,
    }
    statement = insert(MembershipRow).values(values).on_conflict_do_nothing().returning(MembershipRow.id)
    if (await session.execute(statement)).scalar_one_or_none() is None:
        raise Conflict(
            "this person has a role there already", code="already_a_member", hint="change the role they have instead"
        )


async def member_by_id(session: AsyncSession, organization_id: str, membership_id: str) -> Member | None:
    statement = _with_person(
        select(MembershipRow).where(MembershipRow.organization_id == organization_id, MembershipRow.id == membership_id)
    )
    row = (await session.execute(statement)).one_or_none()
    return None if row is None else _member(row[0], row[1], row[2])


async def list_members(
    session: AsyncSession, page: PageRequest, organization_id: str, project_id: str | None
) -> list[Member]:
    """Newest first. `project_id`: only roles in that project."""
    statement = page.apply(select(MembershipRow), MembershipRow.id).where(
        MembershipRow.organization_id == organization_id
    )
    if project_id is not None:
        statement = statement.where(MembershipRow.project_id == project_id)
    return [_member(row, email, name) for row, email, name in await session.execute(_with_person(statement))]


async def set_role(session: AsyncSession, membership_id: str, role: Role) -> None:
    await session.execute(update(MembershipRow).where(MembershipRow.id == membership_id).values(role=role))


async def delete_membership(session: AsyncSession, membership_id: str) -> None:
    await session.execute(delete(MembershipRow).where(MembershipRow.id == membership_id))


async def delete_memberships_of(session: AsyncSession, organization_id: str, user_id: str) -> None:
    """Every role of a person in an organization and its projects."""
    await session.execute(
        delete(MembershipRow).where(MembershipRow.organization_id == organization_id, MembershipRow.user_id == user_id)
    )


async def delete_project_memberships(session: AsyncSession, project_id: str) -> None:
    await session.execute(delete(MembershipRow).where(MembershipRow.project_id == project_id))
    await session.execute(delete(InvitationRow).where(InvitationRow.project_id == project_id))


async def count_owners(session: AsyncSession, organization_id: str) -> int:
    statement = (
        select(func.count())
        .select_from(MembershipRow)
        .where(MembershipRow.organization_id == organization_id, MembershipRow.role == "owner")
    )
    return (await session.execute(statement)).scalar_one()


async def count_memberships(session: AsyncSession, organization_id: str) -> int:
    statement = select(func.count()).select_from(MembershipRow).where(MembershipRow.organization_id == organization_id)
    return (await session.execute(statement)).scalar_one()


async def add_invitation(session: AsyncSession, invitation: Invitation, token_sha256: str) -> None:
    session.add(
        InvitationRow(
            id=invitation.id,
            organization_id=invitation.organization_id,
            project_id=invitation.project_id,
            role=invitation.role,
            email=invitation.email,
            token_sha256=token_sha256,
            created_by=invitation.created_by,
            by_operator=invitation.by_operator,
            created_at=invitation.created_at,
            expires_at=invitation.expires_at,
            accepted_at=invitation.accepted_at,
        )
    )
    await session.flush()


async def open_invitation(session: AsyncSession, token_sha256: str, now: datetime) -> Invitation | None:
    """The invitation, locked, unless it is used up or has expired."""
    statement = (
        select(InvitationRow)
        .where(
            InvitationRow.token_sha256 == token_sha256,
            InvitationRow.accepted_at.is_(None),
            InvitationRow.expires_at > now,
        )
        .with_for_update()
    )
    row = (await session.execute(statement)).scalar_one_or_none()
    return None if row is None else _invitation(row)


async def mark_accepted(session: AsyncSession, invitation_id: str, now: datetime) -> None:
    await session.execute(update(InvitationRow).where(InvitationRow.id == invitation_id).values(accepted_at=now))


async def list_invitations(session: AsyncSession, page: PageRequest, organization_id: str) -> list[Invitation]:
    """Newest first, accepted and expired ones too."""
    statement = page.apply(select(InvitationRow), InvitationRow.id).where(
        InvitationRow.organization_id == organization_id
    )
    return [_invitation(row) for row in (await session.execute(statement)).scalars()]


async def invitation_by_id(session: AsyncSession, organization_id: str, invitation_id: str) -> Invitation | None:
    statement = select(InvitationRow).where(
        InvitationRow.organization_id == organization_id, InvitationRow.id == invitation_id
    )
    row = (await session.execute(statement)).scalar_one_or_none()
    return None if row is None else _invitation(row)


async def delete_invitation(session: AsyncSession, invitation_id: str) -> None:
    await session.execute(delete(InvitationRow).where(InvitationRow.id == invitation_id))


async def delete_open_invitations_by(session: AsyncSession, organization_id: str | None, user_id: str) -> None:
    """What a person invited to and nobody took yet, in one organization or (None) in all."""
    statement = delete(InvitationRow).where(InvitationRow.created_by == user_id, InvitationRow.accepted_at.is_(None))
    if organization_id is not None:
        statement = statement.where(InvitationRow.organization_id == organization_id)
    await session.execute(statement)


async def make_room_for_invitation(session: AsyncSession, organization_id: str, most: int, now: datetime) -> None:
    """Forgets dead invitations once there are `most`. Raises `Conflict` where as many are still open."""
    of_organization = InvitationRow.organization_id == organization_id
    count = select(func.count()).select_from(InvitationRow).where(of_organization)
    if (await session.execute(count)).scalar_one() < most:
        return
    dead = InvitationRow.accepted_at.is_not(None) | (InvitationRow.expires_at <= now)
    await session.execute(delete(InvitationRow).where(of_organization, dead))
    if (await session.execute(count)).scalar_one() >= most:
        raise Conflict(f"there are {most} open invitations", code="too_many", hint="withdraw some of them first")


def _with_person(statement: Select[MembershipRow]) -> Select[MembershipRow, str, str]:
    """The same memberships, each with its person's e-mail address and name."""
    return statement.join(UserRow, UserRow.id == MembershipRow.user_id).add_columns(UserRow.email, UserRow.name)


def _member(row: MembershipRow, email: str, name: str) -> Member:
    return Member(
        id=row.id,
        organization_id=row.organization_id,
        user_id=row.user_id,
        project_id=row.project_id,
        role=_role(row.role),
        email=email,
        name=name,
        created_at=row.created_at,
    )


def _invitation(row: InvitationRow) -> Invitation:
    return Invitation(
        id=row.id,
        organization_id=row.organization_id,
        project_id=row.project_id,
        role=_role(row.role),
        email=row.email,
        created_by=row.created_by,
        by_operator=row.by_operator,
        created_at=row.created_at,
        expires_at=row.expires_at,
        accepted_at=row.accepted_at,
    )


def _role(text: str) -> Role:
    role: Role = msgspec.convert(text, Role)
    return role
