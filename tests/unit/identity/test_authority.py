"""The permission matrix, and who may grant what."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.identity import authority
from cloudcrest.identity.api import ROLE_PERMISSIONS, Caller, Limits, Membership, Permission, Role
from cloudcrest.kernel.errors import Conflict, InvalidInput, NotFound, PermissionDenied

ROLES: tuple[Role, ...] = get_args(Role)
PERMISSIONS: tuple[Permission, ...] = get_args(Permission)

MATRIX = """
                     owner  admin  developer  billing  viewer
organization:read      x      x        x         x       x
organization:write     x      .        .         .       .
members:read           x      x        x         x       x
members:write          x      x        .         .       .
projects:read          x      x        x         x       x
projects:write         x      x        .         .       .
keys:read              x      x        x         .       .
keys:write             x      x        x         .       .
deployments:read       x      x        x         x       x
jobs:read              x      x        x         x       x
jobs:write             x      x        x         .       .
usage:read             x      x        x         x       x
billing:read           x      x        .         x       .
billing:write          x      .        .         x       .
"""


def caller(role: Role, project_id: str | None = None, *, is_operator: bool = False) -> Caller:
    membership = Membership(organization_id="org_a", role=role, project_id=project_id)
    return Caller(kind="user", id="user_a", memberships=(membership,), is_operator=is_operator, user_id="user_a")


def test_the_matrix_is_as_written() -> None:
    lines = MATRIX.strip().splitlines()
    roles = lines[0].split()
    assert sorted(roles) == sorted(ROLES)
    assert len(lines) - 1 == len(PERMISSIONS)
    for line in lines[1:]:
        permission, *marks = line.split()
        for role, mark in zip(roles, marks, strict=True):
            granted = permission in ROLE_PERMISSIONS[role]  # type: ignore[index] # the table's own words
            assert granted == (mark == "x"), (role, permission)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("permission", PERMISSIONS)
def test_a_role_reaches_its_own_organization_alone(role: Role, permission: Permission) -> None:
    member = caller(role)
    assert member.may(permission, "org_a") == (permission in ROLE_PERMISSIONS[role])
    assert member.may(permission, "org_a", "proj_any") == (permission in ROLE_PERMISSIONS[role])
    assert not member.may(permission, "org_b")
    with pytest.raises(NotFound):
        member.require(permission, "org_b")


@pytest.mark.parametrize("permission", PERMISSIONS)
def test_a_project_role_reaches_its_project_alone(permission: Permission) -> None:
    member = caller("admin", "proj_a")
    assert member.may(permission, "org_a", "proj_a") == (permission in ROLE_PERMISSIONS["admin"])
    assert not member.may(permission, "org_a")
    assert not member.may(permission, "org_a", "proj_b")
    with pytest.raises(PermissionDenied):
        member.require(permission, "org_a")
    with pytest.raises(NotFound, match="there is no key"):
        member.require(permission, "org_a", "proj_b", missing="there is no key")


def test_operators_may_everything_everywhere() -> None:
    operator = Caller(kind="user", id="user_o", is_operator=True)
    for permission in PERMISSIONS:
        operator.require(permission, "org_any", "proj_any")
    operator.require_operator()
    assert operator.reach("keys:read").everywhere
    with pytest.raises(PermissionDenied):
        caller("owner").require_operator()


def test_reach_lists_where_a_permission_is_held() -> None:
    member = Caller(
        kind="user",
        id="user_a",
        memberships=(
            Membership(organization_id="org_a", role="developer"),
            Membership(organization_id="org_b", role="viewer"),
            Membership(organization_id="org_b", role="developer", project_id="proj_b"),
        ),
    )
    reach = member.reach("keys:read")
    assert not reach.everywhere
    assert reach.organization_ids == {"org_a"}
    assert reach.project_ids == {"proj_b"}


@pytest.mark.parametrize("role", ROLES)
def test_only_owners_make_owners(role: Role) -> None:
    if role == "owner":
        authority.check_grant(caller(role), "org_a", "owner", None)
        authority.check_change_of(caller(role), "org_a", "owner")
        return
    with pytest.raises(PermissionDenied):
        authority.check_grant(caller(role), "org_a", "owner", None)
    with pytest.raises(PermissionDenied):
        authority.check_change_of(caller(role), "org_a", "owner")


@pytest.mark.parametrize(("role", "is_fine"), [(role, role in authority.PROJECT_ROLES) for role in ROLES])
def test_some_roles_are_for_whole_organizations(role: Role, is_fine: bool) -> None:
    if is_fine:
        authority.check_grant(caller("owner"), "org_a", role, "proj_a")
        return
    with pytest.raises(InvalidInput):
        authority.check_grant(caller("owner"), "org_a", role, "proj_a")


def test_the_last_owner_remains() -> None:
    for next_role in (None, "admin"):
        with pytest.raises(Conflict):
            authority.check_owner_remains("owner", next_role, 1)
        authority.check_owner_remains("owner", next_role, 2)
    authority.check_owner_remains("owner", "owner", 1)
    authority.check_owner_remains("viewer", None, 1)


memberships = st.lists(
    st.builds(
        Membership,
        organization_id=st.sampled_from(["org_a", "org_b"]),
        role=st.sampled_from(ROLES),
        project_id=st.sampled_from([None, "proj_a", "proj_b"]),
    ),
    max_size=6,
)


@given(
    roles=memberships,
    organization_wide=st.booleans(),
    permission=st.sampled_from(PERMISSIONS),
    organization_id=st.sampled_from(["org_a", "org_b"]),
    project_id=st.sampled_from([None, "proj_a", "proj_b"]),
)
def test_a_key_may_nothing_that_its_maker_may_not(
    roles: list[Membership],
    organization_wide: bool,
    permission: Permission,
    organization_id: str,
    project_id: str | None,
) -> None:
    maker = Caller(kind="user", id="user_a", memberships=tuple(roles))
    narrowed = authority.key_memberships(roles, "org_a", "proj_a", organization_wide=organization_wide)
    key = Caller(kind="key", id="key_a", memberships=narrowed)
    if key.may(permission, organization_id, project_id):
        assert maker.may(permission, organization_id, project_id)
        assert organization_id == "org_a"
        assert organization_wide or project_id == "proj_a"


limits = st.builds(
    Limits,
    requests_per_minute=st.none() | st.integers(1, 9),
    tokens_per_minute=st.none() | st.integers(1, 9),
    concurrent_requests=st.none() | st.integers(1, 9),
)


@given(limits, limits)
def test_the_tighter_limit_holds(own: Limits, ceiling: Limits) -> None:
    both = authority.tighter(own, ceiling)
    for name in ("requests_per_minute", "tokens_per_minute", "concurrent_requests"):
        given_values = [value for value in (getattr(own, name), getattr(ceiling, name)) if value is not None]
        assert getattr(both, name) == (min(given_values) if given_values else None)


def test_a_floor_of_ones_own_does_not_undo_the_operators_limit_on_growth() -> None:
    ceiling = Limits(growth_percent_per_minute=100)
    both = authority.tighter(Limits(growth_floor_requests_per_minute=1_000_000), ceiling)
    assert (both.growth_percent_per_minute, both.growth_floor_requests_per_minute) == (100, 60)
    assert authority.tighter(Limits(max_wait_seconds=9), Limits(max_wait_seconds=5)).max_wait_seconds == 5
