"""Who may grant what: pure rules over roles, memberships, keys and invitations."""

from collections.abc import Iterable

import msgspec

from cloudcrest.identity.api import GROWTH_FLOOR_REQUESTS_PER_MINUTE, Caller, Limits, Membership, Role
from cloudcrest.identity.settings import Registration
from cloudcrest.kernel.errors import Conflict, InvalidInput, PermissionDenied

PROJECT_ROLES: frozenset[Role] = frozenset({"admin", "developer", "viewer"})
"""Roles that make sense in one project: owning and paying are the whole organization's."""


def key_memberships(
    memberships: Iterable[Membership], organization_id: str, project_id: str, *, organization_wide: bool
) -> tuple[Membership, ...]:
    """What a management key may act as: its creator's roles, narrowed to its organization, or to its project alone."""
    inside = [item for item in memberships if item.organization_id == organization_id]
    if organization_wide:
        return tuple(inside)
    return tuple(
        Membership(organization_id=organization_id, role=item.role, project_id=project_id)
        for item in inside
        if item.project_id in (None, project_id)
    )


def check_grant(caller: Caller, organization_id: str, role: Role, project_id: str | None) -> None:
    """Raises unless the caller, who may write members there, may hand out `role`: only owners make owners."""
    if project_id is not None and role not in PROJECT_ROLES:
        raise InvalidInput(
            f"the role {role} is for a whole organization",
            param="body.role",
            hint=f"for one project: {', '.join(sorted(PROJECT_ROLES))}",
        )
    if role == "owner" and not is_owner(caller, organization_id):
        raise PermissionDenied("only an owner can make someone an owner", hint="ask an owner")


def check_change_of(caller: Caller, organization_id: str, present_role: Role) -> None:
    """Raises unless the caller, who may write members there, may change or remove someone of `present_role`."""
    if present_role == "owner" and not is_owner(caller, organization_id):
        raise PermissionDenied("only an owner can change or remove an owner", hint="ask an owner")


def check_owner_remains(present_role: Role, next_role: Role | None, owner_count: int) -> None:
    """Raises `Conflict` where the last owner would be demoted, or removed (`next_role` None)."""
    if present_role == "owner" and next_role != "owner" and owner_count <= 1:
        raise Conflict(
            "this is the organization's last owner",
            code="last_owner",
            hint="make someone else an owner first",
        )


def is_owner(caller: Caller, organization_id: str) -> bool:
    """Whether the caller owns the whole organization, or runs this cloud."""
    return caller.is_operator or Membership(organization_id=organization_id, role="owner") in caller.memberships


def check_may_register(registration: Registration) -> None:
    """Raises `PermissionDenied` unless anyone may make an account."""
    if registration == "open":
        return
    if registration == "invitation":
        raise PermissionDenied(
            "accounts here are made by invitation", code="registration_by_invitation", hint="ask a member to invite you"
        )
    raise PermissionDenied("registration is closed", code="registration_closed", hint="ask the operator of this cloud")


def check_may_register_by(registration: Registration, *, invited_by_operator: bool) -> None:
    """Raises `PermissionDenied` unless an invitation may bring a new account into being."""
    if registration == "closed" and not invited_by_operator:
        raise PermissionDenied(
            "registration is closed: only existing accounts can take this invitation",
            code="registration_closed",
            hint="sign in first, or ask the operator of this cloud",
        )


def tighter(first: Limits, second: Limits) -> Limits:
    """The smaller of each limit, where None is no limit.

    A limit on growth that names no floor has the usual one, which the other's cannot raise.
    """

    def smaller(left: int | None, right: int | None) -> int | None:
        return right if left is None else left if right is None else min(left, right)

    first, second = _with_floor(first), _with_floor(second)
    return Limits(**{name: smaller(getattr(first, name), getattr(second, name)) for name in Limits.__struct_fields__})


def _with_floor(limits: Limits) -> Limits:
    if limits.growth_percent_per_minute is None or limits.growth_floor_requests_per_minute is not None:
        return limits
    return msgspec.structs.replace(limits, growth_floor_requests_per_minute=GROWTH_FLOOR_REQUESTS_PER_MINUTE)
