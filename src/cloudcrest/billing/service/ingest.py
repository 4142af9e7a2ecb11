"""Usage in, ledger entries out: in one transaction, each event once, whatever order and however often it comes."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing import repository
from cloudcrest.billing.api import Account, LedgerEntry, RateCard, UnpricedReason, UnpricedUsage
from cloudcrest.billing.pricing import card_in_force, price_usage
from cloudcrest.billing.service.accounts import Accounts
from cloudcrest.billing.service.granting import Granting
from cloudcrest.infra.database import Database
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import PermissionDenied
from cloudcrest.kernel.ids import NewId
from cloudcrest.kernel.money import Money
from cloudcrest.kernel.usage import UsageEvent
from cloudcrest.metering.api import FOREIGN_REGION_CODE, IngestReceipt, UsageBatch, UsageEvents

_PAGE_EVENTS = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = structlog.get_logger(__name__)

Cards = dict[tuple[str, str], list[RateCard]]
"""Rate cards by model and currency."""


def started_at(event: UsageEvent) -> datetime:
    """When the request came in: the moment whose prices hold for it."""
    return _EPOCH + timedelta(microseconds=event.started_at_microseconds)


async def load_cards(session: AsyncSession, events: Sequence[UsageEvent]) -> Cards:
    """The cards of the events' models."""
    cards: Cards = {}
    for card in await repository.rate_cards(session, models={event.model for event in events}):
        cards.setdefault((card.model, card.currency), []).append(card)
    return cards


def card_for(cards: Cards, event: UsageEvent, account: Account) -> RateCard | None:
    """The card that prices an event of this account: the one it was admitted at, else the one then in force."""
    of_model = cards.get((event.model, account.currency), [])
    if event.rate_card_id:
        quoted = next((card for card in of_model if card.id == event.rate_card_id), None)
        if quoted is not None:
            return quoted
    return card_in_force(of_model, started_at(event))


class UsageIngest:
    """Stores usage events, prices them and books them; what cannot be priced yet is kept and listed."""

    def __init__(
        self, usage_events: UsageEvents, accounts: Accounts, granting: Granting, clock: Clock, new_id: NewId
    ) -> None:
        self._usage_events = usage_events
        self._accounts = accounts
        self._granting = granting
        self._clock = clock
        self._new_id = new_id

    async def ingest(self, session: AsyncSession, region: str, batch: UsageBatch) -> IngestReceipt:
        """Takes a batch from a region. Raises `PermissionDenied` where an event names another region, `InvalidInput`
        where one cannot be stored; then nothing of the batch is.
        """
        foreign = next((event for event in batch.events if event.region != region), None)
        if foreign is not None:
            raise PermissionDenied(
                f"usage event '{foreign.id}' is of region '{foreign.region}', not of '{region}'",
                code=FOREIGN_REGION_CODE,
            )
        stored = await self._usage_events.store(session, batch.events, self._clock.now())
        _, waiting = await self._price(session, stored)
        await repository.add_unpriced(session, waiting)
        return IngestReceipt(accepted=len(stored), duplicates=len(batch.events) - len(stored))

    async def price_waiting(self, database: Database) -> int:
        """Prices what has waited and can be priced now, page by page, each in its own transaction; returns how many."""
        priced_total, after_id = 0, ""
        while True:
            async with database.transaction() as session:
                page = await repository.lock_unpriced(session, after_id, _PAGE_EVENTS)
                if not page:
                    return priced_total
                events = await self._usage_events.by_ids(session, [item.event_id for item in page])
                priced, waiting = await self._price(session, events)
                await repository.remove_unpriced(session, priced)
                reasons = {item.event_id: item.reason for item in page}
                for reason in ("no_rate_card", "unknown_organization"):
                    moved = [item.event_id for item in waiting if item.reason == reason != reasons[item.event_id]]
                    await repository.set_unpriced_reason(session, moved, reason)
            priced_total += len(priced)
            after_id = page[-1].event_id

    async def _price(
        self, session: AsyncSession, events: Sequence[UsageEvent]
    ) -> tuple[list[str], list[UnpricedUsage]]:
        """Books what can be priced; returns the ids of that, and the rest with reasons."""
        if not events:
            return [], []
        await repository.hold_prices(session)
        cards = await load_cards(session, events)
        accounts = await repository.read_accounts(session, {event.organization_id for event in events}, lock=True)
        entries: list[LedgerEntry] = []
        charged: list[tuple[UsageEvent, Decimal]] = []
        waiting: list[UnpricedUsage] = []
        now = self._clock.now()
        for event in events:
            account = accounts.get(event.organization_id)
            card = None if account is None else card_for(cards, event, account)
            if account is None or card is None:
                reason: UnpricedReason = "unknown_organization" if account is None else "no_rate_card"
                waiting.append(
                    UnpricedUsage(event.id, event.organization_id, event.project_id, event.model, reason, now)
                )
            else:
                entry = self._usage_entry(event, account, card, now)
                entries.append(entry)
                charged.append((event, entry.amount.copy_negate()))
        await self._granting.charge(session, accounts, charged)
        booked = {entry.organization_id for entry in entries}
        await self._accounts.post(session, {key: value for key, value in accounts.items() if key in booked}, entries)
        if waiting:
            _log.warning("usage_not_priced", events=len(waiting), models=sorted({item.model for item in waiting})[:10])
        return [entry.event_id for entry in entries if entry.event_id is not None], waiting

    def _usage_entry(self, event: UsageEvent, account: Account, card: RateCard, now: datetime) -> LedgerEntry:
        charge = price_usage(event.usage, card, event.tier)
        return LedgerEntry(
            id=self._new_id("led"),
            organization_id=account.organization_id,
            currency=charge.currency,
            kind="usage",
            amount=(-Money(charge.amount, charge.currency)).amount,
            created_at=now,
            event_id=event.id,
            rate_card_id=charge.rate_card_id,
            lines=charge.lines,
            project_id=event.project_id,
            key_id=event.key_id,
            model=event.model,
            usage_started_at=started_at(event),
        )
