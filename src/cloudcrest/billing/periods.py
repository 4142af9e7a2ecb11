"""Which budget a request falls under, and in which of its periods. Pure: control plane and gateways name it alike."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

Period = Literal["day", "month", "total"]

BUDGET_KIND = "budget"
"""Of documents in the feed: a `BudgetDocument`, by its id."""

_BALANCE_PREFIX = "bal_"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOREVER_MICROSECONDS = 2**62


class BudgetDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """What gateways know of a budget or balance: whose requests it holds, not how much of it there is.

    `project_id`, `key_id`: only those requests; None: all of the organization. A balance is `total` and for all.
    """

    id: str
    organization_id: str
    currency: str
    period: Period = "total"
    project_id: str | None = None
    key_id: str | None = None

    @property
    def is_balance(self) -> bool:
        return self.id.startswith(_BALANCE_PREFIX)

    def covers(self, organization_id: str, project_id: str, key_id: str) -> bool:
        """Whether it holds the requests of this key."""
        return (
            self.organization_id == organization_id
            and self.project_id in (None, project_id)
            and self.key_id in (None, key_id)
        )


def balance_document(organization_id: str, currency: str) -> BudgetDocument:
    """The prepaid balance of an organization as a budget."""
    return BudgetDocument(_BALANCE_PREFIX + organization_id, organization_id, currency)


def balance_owner(scope: str) -> str | None:
    """The organization whose balance a scope is; None: it is a budget's."""
    return scope.removeprefix(_BALANCE_PREFIX) if scope.startswith(_BALANCE_PREFIX) else None


def scope_at(budget_id: str, period: Period, at_microseconds: int) -> str:
    """The scope's name in the period (UTC) that holds a moment: `bud_…@2026-11-23`, `bud_…@2026-11`, `bud_…`."""
    if period == "total":
        return budget_id
    start = _EPOCH + timedelta(microseconds=at_microseconds)
    return f"{budget_id}@{start:%Y-%m-%d}" if period == "day" else f"{budget_id}@{start:%Y-%m}"


def budget_of(scope: str) -> str:
    """The id of the budget that a scope is a period of."""
    return scope.partition("@")[0]


def bounds(period: Period, at_microseconds: int) -> tuple[int, int]:
    """When the period that holds a moment begins, and the moment from which on it is over. Unix microseconds."""
    if period == "total":
        return 0, _FOREVER_MICROSECONDS
    at = _EPOCH + timedelta(microseconds=at_microseconds)
    start = at.replace(hour=0, minute=0, second=0, microsecond=0)
    end = start + timedelta(days=1)
    if period == "month":
        start = start.replace(day=1)
        end = (start + timedelta(days=32)).replace(day=1)
    return microseconds(start), microseconds(end)


def microseconds(moment: datetime) -> int:
    """Unix microseconds, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(at_microseconds: int) -> datetime:
    """The time of Unix microseconds."""
    return _EPOCH + timedelta(microseconds=at_microseconds)
