"""What was served and what it cost: usage events beside their ledger entries."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing import repository
from cloudcrest.billing.api import LedgerEntry, UnpricedUsage
from cloudcrest.kernel.money import Money
from cloudcrest.kernel.usage import UsageEvent
from cloudcrest.metering.api import GroupBy, UsageEvents, UsageFilter, UsageGroup

MAX_GROUPS = 1_000


class ChargedUsage(msgspec.Struct, frozen=True):
    """A usage event with its ledger entry, or with why it has none yet."""

    event: UsageEvent
    entry: LedgerEntry | None
    waiting: UnpricedUsage | None


class ChargedGroup(msgspec.Struct, frozen=True):
    """Summed usage and, by currency, what it cost. `unpriced_requests` are in no charge yet."""

    usage: UsageGroup
    charges: tuple[Money, ...]
    unpriced_requests: int


class UsageReport:
    """Reads usage with charges."""

    def __init__(self, usage_events: UsageEvents) -> None:
        self._usage_events = usage_events

    async def read(
        self, session: AsyncSession, wanted: UsageFilter, *, before_id: str | None, limit: int
    ) -> list[ChargedUsage]:
        """At most `limit` requests, newest first."""
        events: Sequence[UsageEvent] = await self._usage_events.read(session, wanted, before_id=before_id, limit=limit)
        ids = [event.id for event in events]
        booked = await repository.entries_of_events(session, ids)
        waiting = await repository.unpriced_of_events(session, ids)
        return [ChargedUsage(event, booked.get(event.id), waiting.get(event.id)) for event in events]

    async def summary(self, session: AsyncSession, wanted: UsageFilter, *, group_by: GroupBy) -> list[ChargedGroup]:
        """Sums by group, sorted by key, the first 1,000."""
        groups = await self._usage_events.summary(session, wanted, group_by=group_by, limit=MAX_GROUPS)
        charges = await repository.charges(session, wanted, group_by=group_by)
        return [_charged(group, charges.get(group.key, [])) for group in groups]

    async def unpriced(
        self, session: AsyncSession, wanted: UsageFilter, *, before_id: str | None, limit: int
    ) -> list[UnpricedUsage]:
        """Usage that waits for a price, newest first."""
        return await repository.unpriced(session, wanted, before_id=before_id, limit=limit)


def _charged(group: UsageGroup, charges: list[tuple[str, Decimal, int]]) -> ChargedGroup:
    priced_requests = sum(requests for _, _, requests in charges)
    money = tuple(Money(amount, currency) for currency, amount, _ in charges)
    return ChargedGroup(group, money, group.requests - priced_requests)
