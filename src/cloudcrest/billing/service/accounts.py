"""Accounts: their balance is the sum of their entries. That it is never overdrawn is the books' matter (grants.py)."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Literal

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing import budget_repository, repository
from cloudcrest.billing.api import Account, EntryKind, LedgerEntry
from cloudcrest.billing.periods import BUDGET_KIND, balance_document
from cloudcrest.billing.service.granting import RECALL_SECONDS
from cloudcrest.billing.settings import BillingSettings
from cloudcrest.identity.api import SYSTEM_ORGANIZATION_ID
from cloudcrest.infra.publication import publish
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, NotFound
from cloudcrest.kernel.ids import NewId
from cloudcrest.kernel.money import Money, plain
from cloudcrest.metering.api import UsageFilter


class Accounts:
    """Opens accounts and moves their balance. Every call is inside the caller's transaction.

    Locks are taken in one order everywhere: usage events, rate cards, accounts (by id), organizations (by id).
    """

    def __init__(self, settings: BillingSettings, clock: Clock, new_id: NewId) -> None:
        self._settings = settings
        self._clock = clock
        self._new_id = new_id

    async def organization_created(self, session: AsyncSession, organization_id: str, currency: str) -> None:
        """Opens the account with its starting credit; identity calls it when it founds an organization."""
        if not await repository.add_account(session, organization_id, currency, self._clock.now()):
            return
        if organization_id != SYSTEM_ORGANIZATION_ID:  # whose probes never end for want of balance
            document = balance_document(organization_id, currency)
            await publish(session, BUDGET_KIND, document.id, document)
        accounts = await repository.read_accounts(session, [organization_id], lock=True)
        credit = self._settings.starting_credit
        entries = []
        if credit > 0:
            entries.append(self._entry(accounts[organization_id], "credit", credit, note="Starting credit"))
        await self.post(session, accounts, entries)

    async def get(self, session: AsyncSession, organization_id: str) -> Account:
        """The account. Raises `NotFound`."""
        found = await repository.account(session, organization_id)
        if found is None:
            raise NotFound(f"there is no account of organization '{organization_id}'")
        return found

    async def entry(self, session: AsyncSession, entry_id: str) -> LedgerEntry:
        """The entry. Raises `NotFound`."""
        found = await repository.entry(session, entry_id)
        if found is None:
            raise NotFound(f"there is no ledger entry '{entry_id}'")
        return found

    async def entries(
        self, session: AsyncSession, wanted: UsageFilter, *, kind: EntryKind | None, before_id: str | None, limit: int
    ) -> list[LedgerEntry]:
        """At most `limit` entries, newest first."""
        return await repository.entries(session, wanted, kind=kind, before_id=before_id, limit=limit)

    async def credit(
        self,
        session: AsyncSession,
        organization_id: str,
        kind: Literal["credit", "adjustment"],
        amount: Money,
        *,
        note: str,
        reference: str | None,
        created_by: str,
    ) -> LedgerEntry:
        """Books a credit (above zero) or an adjustment (not zero). The same `reference` again changes nothing and
        returns the entry there is; with other content it raises `Conflict`.
        """
        if amount.amount == 0 or (kind == "credit" and amount.amount < 0):
            raise InvalidInput(f"the amount of this {kind} cannot be {plain(amount.amount)}", param="body.amount")
        accounts = await repository.read_accounts(session, [organization_id], lock=True)
        account = accounts.get(organization_id)
        if account is None:
            raise NotFound(f"there is no account of organization '{organization_id}'")
        if account.currency != amount.currency:
            raise InvalidInput(
                f"the account of '{organization_id}' is in {account.currency}, not {amount.currency}",
                param="body.currency",
            )
        if reference is not None:
            there = await repository.entry_by_reference(session, organization_id, reference)
            if there is not None:
                if (there.kind, there.amount, there.note) != (kind, amount.amount, note):
                    raise Conflict(f"'{reference}' is the reference of another entry, {there.id}")
                return there
        entry = self._entry(account, kind, amount.amount, note=note, reference=reference, created_by=created_by)
        await self.post(session, accounts, [entry])
        if amount.amount < 0:  # gateways give back what they hold of it and do not need
            scope = balance_document(organization_id, account.currency).id
            until = self._clock.now() + timedelta(seconds=RECALL_SECONDS)
            await budget_repository.recall(session, {scope: scope}, until)
        return entry

    async def post(self, session: AsyncSession, accounts: dict[str, Account], entries: Sequence[LedgerEntry]) -> None:
        """Writes entries of locked accounts, and their balances."""
        changed = {organization_id: Money(found.balance, found.currency) for organization_id, found in accounts.items()}
        for entry in entries:
            changed[entry.organization_id] += Money(entry.amount, entry.currency)
        await repository.add_entries(session, entries)
        for organization_id in sorted(changed):
            before = accounts[organization_id]
            after = replace(before, balance=changed[organization_id].amount)
            if after != before:
                await repository.save_account(session, after)

    def _entry(
        self,
        account: Account,
        kind: Literal["credit", "adjustment"],
        amount: Decimal,
        *,
        note: str,
        reference: str | None = None,
        created_by: str | None = None,
    ) -> LedgerEntry:
        return LedgerEntry(
            id=self._new_id("led"),
            organization_id=account.organization_id,
            currency=account.currency,
            kind=kind,
            amount=amount,
            created_at=self._clock.now(),
            note=note,
            reference=reference,
            created_by=created_by,
        )
