"""The ledger's replay: every usage event is priced again and held against what was booked, to the last unit."""

import asyncio

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing import repository
from cloudcrest.billing.api import Difference, VerifyReport
from cloudcrest.billing.pricing import price_usage
from cloudcrest.billing.replay import compare_entry
from cloudcrest.billing.service.ingest import card_for, load_cards
from cloudcrest.infra.database import Database
from cloudcrest.kernel.errors import LimitExceeded
from cloudcrest.kernel.money import Money, plain
from cloudcrest.metering.api import UsageEvents

PAGE_ITEMS = 1_000
MAX_DIFFERENCES = 100
MAX_VERIFICATIONS = 2


class Verification:
    """Replays the ledger of an organization, or of the whole cloud, in pages and out of one snapshot."""

    def __init__(self, usage_events: UsageEvents) -> None:
        self._usage_events = usage_events
        self._slots = asyncio.Semaphore(MAX_VERIFICATIONS)

    async def verify(self, database: Database, organization_id: str | None) -> VerifyReport:
        """What differs; nothing is changed. Raises `LimitExceeded` while two others run."""
        if self._slots.locked():
            raise LimitExceeded("the ledger is being verified already", retry_after_seconds=5)
        async with self._slots, database.transaction() as session:
            await session.execute(text("set transaction isolation level repeatable read, read only"))
            replay = _Replay(self._usage_events, session, organization_id)
            await replay.events()
            await replay.entries()
            await replay.balances()
            return replay.report()


class _Replay:
    """One run: counts, sums and the first differences are all it keeps."""

    def __init__(self, usage_events: UsageEvents, session: AsyncSession, organization_id: str | None) -> None:
        self._usage_events = usage_events
        self._session = session
        self._organization_id = organization_id
        self._events_replayed = self._entries_checked = self._events_waiting = self._accounts_checked = 0
        self._charged: dict[str, Money] = {}
        self._differences: list[Difference] = []
        self._differences_total = 0

    async def events(self) -> None:
        """Every event has the entry that pricing it gives, or waits for a reason that holds."""
        after_id = ""
        while page := await self._usage_events.read_forward(
            self._session, after_id=after_id, limit=PAGE_ITEMS, organization_id=self._organization_id
        ):
            ids = [event.id for event in page]
            cards = await load_cards(self._session, page)
            booked = await repository.entries_of_events(self._session, ids)
            waiting = await repository.unpriced_of_events(self._session, ids)
            accounts = await repository.read_accounts(self._session, {event.organization_id for event in page})
            for event in page:
                account = accounts.get(event.organization_id)
                card = None if account is None else card_for(cards, event, account)
                charge = None if card is None else price_usage(event.usage, card, event.tier)
                if charge is not None:
                    spent = self._charged.get(charge.currency, Money.zero(charge.currency))
                    self._charged[charge.currency] = spent + Money(charge.amount, charge.currency)
                self._events_waiting += event.id in waiting
                for difference in compare_entry(event, charge, booked.get(event.id), is_waiting=event.id in waiting):
                    self._add(difference)
            self._events_replayed += len(page)
            after_id = ids[-1]

    async def entries(self) -> None:
        """Every usage entry has its event."""
        after_id = ""
        while page := await repository.entries_after(self._session, after_id, PAGE_ITEMS, self._organization_id):
            ids = [entry.event_id for entry in page if entry.event_id is not None]
            there = {event.id for event in await self._usage_events.by_ids(self._session, ids)}
            accounts = await repository.read_accounts(self._session, {entry.organization_id for entry in page})
            for entry in page:
                owner, account = entry.organization_id, accounts.get(entry.organization_id)
                if entry.kind == "usage" and entry.event_id not in there:
                    found = str(entry.event_id)
                    self._add(Difference("entry_without_event", entry.id, owner, "event_id", "a usage event", found))
                if account is None:
                    self._add(Difference("entry_without_account", entry.id, owner, "account", "an account", "none"))
                elif account.currency != entry.currency:
                    currencies = (account.currency, entry.currency)
                    self._add(Difference("wrong_entry", entry.id, owner, "currency", *currencies))
            self._entries_checked += len(page)
            after_id = page[-1].id

    async def balances(self) -> None:
        """Every balance is the sum of its account's entries."""
        after_id = ""
        while page := await repository.accounts_after(self._session, after_id, PAGE_ITEMS, self._organization_id):
            for account, total in page:
                if account.balance != total:
                    owner = account.organization_id
                    amounts = (plain(total), plain(account.balance))
                    self._add(Difference("wrong_balance", owner, owner, "balance", *amounts))
            self._accounts_checked += len(page)
            after_id = page[-1][0].organization_id

    def report(self) -> VerifyReport:
        return VerifyReport(
            events_replayed=self._events_replayed,
            entries_checked=self._entries_checked,
            events_waiting=self._events_waiting,
            accounts_checked=self._accounts_checked,
            charged={currency: money.amount for currency, money in sorted(self._charged.items())},
            differences=tuple(self._differences),
            differences_total=self._differences_total,
        )

    def _add(self, difference: Difference) -> None:
        self._differences_total += 1
        if len(self._differences) < MAX_DIFFERENCES:
            self._differences.append(difference)
