"""`/api/v1/ledger`: entries, balance, credits, and the replay."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import AwareDatetime

from cloudcrest.billing.api import EntryKind
from cloudcrest.billing.routes.scope import one_organization, visible
from cloudcrest.billing.schemas import BalanceView, CreateCredit, EntryView, Identifier, VerifyLedger, VerifyView
from cloudcrest.billing.service.accounts import Accounts
from cloudcrest.billing.service.verification import Verification
from cloudcrest.billing.views import view_balance, view_entry, view_report
from cloudcrest.identity.http import CallerDep
from cloudcrest.infra.database import Database
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep
from cloudcrest.kernel.money import Money, parse_amount

EntryPath = Annotated[Identifier, Path(examples=["led_01k9zq3v5e8m2n4p6r8t0w2y4z"])]
OrganizationQuery = Annotated[Identifier | None, Query(description="Of this organization")]


def router(accounts: Accounts, verification: Verification) -> APIRouter:
    """The routes of the ledger."""
    routes = APIRouter(prefix="/ledger", tags=["billing"], responses=responses(400, 401, 403, 404))
    _add_entries(routes, accounts)
    _add_balance(routes, accounts)
    _add_verify(routes, verification)
    return routes


def _add_entries(routes: APIRouter, accounts: Accounts) -> None:

    @routes.get("/entries", operation_id="list_ledger_entries", summary="List ledger entries")
    async def list_entries(
        *,
        session: SessionDep,
        caller: CallerDep,
        page: PageDep,
        organization_id: OrganizationQuery = None,
        kind: Annotated[EntryKind | None, Query(description="Only of this kind")] = None,
        since: Annotated[AwareDatetime | None, Query(description="Booked then or later")] = None,
        until: Annotated[AwareDatetime | None, Query(description="Booked before then")] = None,
    ) -> Page[EntryView]:
        """Every movement of the accounts that the caller may see, newest first. Needs `billing:read`."""
        wanted = visible(caller, "billing:read", organization_id=organization_id, since=since, until=until)
        entries = await accounts.entries(session, wanted, kind=kind, before_id=page.cursor, limit=page.limit + 1)
        return page.page([view_entry(entry) for entry in entries], [entry.id for entry in entries])

    @routes.get("/entries/{entry_id}", operation_id="get_ledger_entry", summary="Show a ledger entry")
    async def get_entry(session: SessionDep, caller: CallerDep, entry_id: EntryPath) -> EntryView:
        """One entry with the lines that explain it. Needs `billing:read`."""
        entry = await accounts.entry(session, entry_id)
        missing = f"there is no ledger entry '{entry_id}'"
        caller.require("billing:read", entry.organization_id, entry.project_id, missing=missing)
        return view_entry(entry)


def _add_balance(routes: APIRouter, accounts: Accounts) -> None:
    @routes.get("/balance", operation_id="get_balance", summary="Show the balance")
    async def get_balance(
        session: SessionDep, caller: CallerDep, organization_id: OrganizationQuery = None
    ) -> BalanceView:
        """What an organization has left; without `organization_id` the caller's only one. Needs `billing:read`."""
        return view_balance(await accounts.get(session, one_organization(caller, "billing:read", organization_id)))

    @routes.post(
        "/credits",
        operation_id="create_credit",
        summary="Credit or adjust an account",
        status_code=201,
        responses=responses(409),
    )
    async def create_credit(session: SessionDep, caller: CallerDep, body: CreateCredit) -> EntryView:
        """Books a credit or an adjustment, for operators. Above zero again, an organization is served."""
        caller.require_operator()
        amount = parse_amount(body.amount, field="body.amount")
        kind: Literal["credit", "adjustment"] = body.kind or ("credit" if amount > 0 else "adjustment")
        entry = await accounts.credit(
            session,
            body.organization_id,
            kind,
            Money(amount, body.currency),
            note=body.note,
            reference=body.reference,
            created_by=caller.id,
        )
        return view_entry(entry)


def _add_verify(routes: APIRouter, verification: Verification) -> None:
    @routes.post(
        "/verify",
        operation_id="verify_ledger",
        summary="Replay the ledger",
        responses=responses(429),
    )
    async def verify_ledger(request: Request, caller: CallerDep, body: VerifyLedger) -> VerifyView:
        """Prices every usage event again and compares with what was booked, to the last unit; changes nothing.

        Operators replay the whole cloud or one organization, others their own. Needs `billing:read`.
        """
        organization_id = body.organization_id
        if organization_id is not None or not caller.is_operator:
            organization_id = one_organization(caller, "billing:read", organization_id)
        # A transaction of its own: the replay reads one snapshot.
        database: Database = request.app.state.database
        return view_report(await verification.verify(database, organization_id))
