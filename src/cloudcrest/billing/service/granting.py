"""The books of hard budgets: grants to gateway workers, charges of what was served, and what dead workers leave.

Every change of a scope is made under the lock of its organization's account.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing import budget_repository, repository
from cloudcrest.billing.api import Account, Budget
from cloudcrest.billing.grants import (
    MAX_ASKS,
    MAX_PROMISES,
    Book,
    DrainReport,
    Grant,
    GrantsAnswer,
    GrantsRequest,
    Holders,
    exchange,
)
from cloudcrest.billing.periods import (
    BudgetDocument,
    balance_document,
    balance_owner,
    bounds,
    budget_of,
    microseconds,
    scope_at,
)
from cloudcrest.billing.tariff import to_units
from cloudcrest.infra.database import Database
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import InvalidInput, PermissionDenied
from cloudcrest.kernel.usage import UsageEvent

RECALL_SECONDS = 3.0
CLOCK_SKEW = timedelta(seconds=60)
_MAX_CHARACTERS = 256
_KEPT = timedelta(minutes=10)
"""How long a grant that is over stays known, so that a late message finds it."""
_log = structlog.get_logger(__name__)


def document_of(budget: Budget) -> BudgetDocument:
    """What gateways are told of it."""
    return BudgetDocument(
        budget.id, budget.organization_id, budget.currency, budget.period, budget.project_id, budget.key_id
    )


class Granting:
    """Keeps the books. Each call is inside the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def exchange(self, session: AsyncSession, region: str, request: GrantsRequest) -> GrantsAnswer:
        """What a worker of a region asks for and gives back. Raises `InvalidInput`, `PermissionDenied`."""
        _check(request)
        now = self._clock.now()
        answer = GrantsAnswer()
        if request.asks or request.promises:
            books = await self._books(session, region, request, now)
            answer = exchange(books, request, microseconds(now))
            changed = [book.grants[grant_id] for book in books.values() for grant_id in book.changed]
            await budget_repository.save_grants(session, region, changed)
            ahead = {ask.grant_id for ask in request.asks if ask.is_ahead}
            short = {each.scope: budget_of(each.scope) for each in answer.refusals if each.grant_id not in ahead}
            short = {scope: budget_id for scope, budget_id in short.items() if scope in books}
            await budget_repository.recall(session, short, now + timedelta(seconds=RECALL_SECONDS))
        recalled = await budget_repository.recalled(session, now)
        return GrantsAnswer(answer.grants, answer.refusals, tuple(recalled))

    async def drained(self, session: AsyncSession, region: str, report: DrainReport) -> Holders:
        """Ends the grants of holders whose spool has arrived whole; who still has any outstanding."""
        if report.drained:
            ended = await budget_repository.delete_grants_of(session, region, report.drained)
            _log.info("grants_drained", region=region, holders=len(report.drained), grants=ended)
        return Holders(tuple(await budget_repository.holders(session, region)))

    async def charge(
        self, session: AsyncSession, accounts: dict[str, Account], charged: Sequence[tuple[UsageEvent, Decimal]]
    ) -> None:
        """Books events on the scopes they fall under, before their ledger entries are written; accounts are locked."""
        if not charged:
            return
        organizations = {event.organization_id for event, _ in charged}
        budgets = await budget_repository.budgets_of(session, organizations)
        ids = {hold.grant_id for event, _ in charged for hold in event.grants}
        grants: dict[str, list[Grant]] = {}
        for grant, _ in await budget_repository.grants(session, ids=ids) if ids else ():
            grants.setdefault(grant.scope, []).append(grant)
        books: dict[str, Book] = {}
        for event, amount in charged:
            units = to_units(amount)
            account = accounts[event.organization_id]
            balance = balance_document(event.organization_id, account.currency)
            documents = [(balance, None), *((document_of(budget), budget) for budget in budgets)]
            for document, budget in documents:
                if not document.covers(event.organization_id, event.project_id, event.key_id):
                    continue
                scope = scope_at(document.id, document.period, event.started_at_microseconds)
                book = books.get(scope)
                if book is None:
                    before = 0
                    if budget is not None:
                        before = await self._charged_before(session, budget, scope, event.started_at_microseconds)
                    book = books[scope] = Book(scope, 0, before, grants.get(scope, ()))
                uncovered, holds = book.uncovered_units, [hold for hold in event.grants if hold.scope == scope]
                book.charge(units, holds)
                if holds and book.uncovered_units > uncovered:
                    _log.error("charged_beyond_reservation", event_id=event.id, scope=scope)
        changed = [book.grants[grant_id] for book in books.values() for grant_id in book.changed]
        await budget_repository.save_grants(session, "", changed)  # known ones: their region stays
        for scope, book in sorted(books.items()):
            if balance_owner(scope) is None:
                await budget_repository.save_charged(session, scope, budget_of(scope), book.charged_units)

    async def forget(self, database: Database) -> None:
        """Drops grants that are long over."""
        async with database.transaction() as session:
            await budget_repository.forget_grants(session, self._clock.now() - _KEPT)

    async def _charged_before(self, session: AsyncSession, budget: Budget, scope: str, at: int) -> int:
        """What was charged of a scope so far: what is noted or, the first time, what the ledger says."""
        known = await budget_repository.charged_units(session, [scope])
        if scope in known:
            return known[scope]
        units = to_units(await budget_repository.spent(session, budget, *bounds(budget.period, at)))
        await budget_repository.save_charged(session, scope, budget.id, units)
        return units

    async def _books(
        self, session: AsyncSession, region: str, request: GrantsRequest, now: datetime
    ) -> dict[str, Book]:
        """The books of the scopes that a request names, under their accounts' locks; none for what does not exist."""
        scopes = {ask.scope for ask in request.asks} | {promise.scope for promise in request.promises}
        owners = {owner for scope in scopes if (owner := balance_owner(scope)) is not None}
        ids = {budget_of(scope) for scope in scopes if balance_owner(scope) is None}
        budgets = await budget_repository.budgets_by_ids(session, ids) if ids else {}
        owners |= {budget.organization_id for budget in budgets.values()}
        accounts = await repository.read_accounts(session, owners, lock=True)
        if ids:  # once more: now nobody changes them
            budgets = await budget_repository.budgets_by_ids(session, ids)
        named = {ask.grant_id for ask in request.asks} | {promise.grant_id for promise in request.promises}
        grants: dict[str, list[Grant]] = {}
        for grant, of_region in await budget_repository.grants(session, scopes=scopes, ids=named):
            if grant.id in named and of_region != region:
                raise PermissionDenied(f"the grant '{grant.id}' is of another region")
            grants.setdefault(grant.scope, []).append(grant)
        books: dict[str, Book] = {}
        for scope in sorted(scopes):
            owner, budget = balance_owner(scope), budgets.get(budget_of(scope))
            if owner is not None and owner in accounts:
                limit, charged = to_units(accounts[owner].balance), 0
            elif budget is not None and budget.organization_id in accounts:
                at = _moment_in(budget, scope, now)
                # Of a period that is over nothing is granted any more.
                limit = 0 if at is None else to_units(budget.amount)
                charged = 0 if at is None else await self._charged_before(session, budget, scope, at)
            else:
                continue
            books[scope] = Book(scope, limit, charged, grants.get(scope, ()))
        return books


def _moment_in(budget: Budget, scope: str, now: datetime) -> int | None:
    """A moment about now that is in this period of the budget; None: it is not the present one by any clock."""
    for at in (now, now - CLOCK_SKEW, now + CLOCK_SKEW):
        if scope_at(budget.id, budget.period, microseconds(at)) == scope:
            return microseconds(at)
    return None


def _check(request: GrantsRequest) -> None:
    for name, items, most in (
        ("asks", request.asks, MAX_ASKS),
        ("promises", request.promises, MAX_PROMISES),
    ):
        if len(items) > most:
            raise InvalidInput(f"at most {most} {name} at once", param=name)
    _check_texts([request.holder])
    _check_texts([text for ask in request.asks for text in (ask.grant_id, ask.scope)])
    _check_texts([text for promise in request.promises for text in (promise.grant_id, promise.scope)])
    for ids in (
        [ask.grant_id for ask in request.asks],
        [promise.grant_id for promise in request.promises],
    ):
        if any(not grant_id.startswith(f"{request.holder}.") for grant_id in ids):
            raise InvalidInput("a grant's id begins with its holder's", param="grant_id")
    if any(not 0 < number < 10**38 for ask in request.asks for number in (ask.least, ask.needed)):
        raise InvalidInput("an amount is out of range", param="asks")
    _check_range([ask.wanted for ask in request.asks] + [promise.units for promise in request.promises])


def _check_range(numbers: Iterable[int]) -> None:
    if any(not 0 <= number < 10**41 for number in numbers):
        raise InvalidInput("an amount is out of range")


def _check_texts(texts: Collection[str]) -> None:
    if any(not text or len(text) > _MAX_CHARACTERS or "\0" in text for text in texts):
        raise InvalidInput("a name is empty, too long or not text")
