"""Whose usage and money a caller reads: one place for all the routes, so that none forgets it."""

from datetime import datetime

from cloudcrest.billing.schemas import moment
from cloudcrest.identity.api import Caller, Permission
from cloudcrest.kernel.errors import InvalidInput, PermissionDenied
from cloudcrest.metering.api import UsageFilter


def visible(
    caller: Caller,
    permission: Permission,
    *,
    organization_id: str | None = None,
    project_id: str | None = None,
    key_id: str | None = None,
    model: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> UsageFilter:
    """What of the wanted the caller may see. Raises `NotFound` for an organization that is not the caller's,
    `PermissionDenied` where no role of the caller's has `permission`.
    """
    if organization_id is not None and not caller.belongs_to(organization_id):
        caller.require(permission, organization_id)
    reach = caller.reach(permission)
    if not (reach.everywhere or reach.organization_ids or reach.project_ids):
        raise PermissionDenied(f"your role does not include {permission}", hint="ask an owner or admin")
    return UsageFilter(
        organization_ids=None if reach.everywhere else reach.organization_ids,
        project_ids=None if reach.everywhere else reach.project_ids,
        organization_id=organization_id,
        project_id=project_id,
        key_id=key_id,
        model=model,
        since=None if since is None else moment(since, "since"),
        until=None if until is None else moment(until, "until"),
    )


def one_organization(caller: Caller, permission: Permission, organization_id: str | None) -> str:
    """The organization that is asked about, or the caller's only one. Raises `NotFound`, `PermissionDenied`,
    `InvalidInput` where it is not clear which.
    """
    if organization_id is None:
        own = {membership.organization_id for membership in caller.memberships}
        if len(own) != 1:
            raise InvalidInput("say which organization", param="organization_id")
        organization_id = own.pop()
    caller.require(permission, organization_id)
    return organization_id
