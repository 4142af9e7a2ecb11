"""`/api/v1/budgets`: hard limits of what may be spent."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing.api import BudgetState
from cloudcrest.billing.routes.scope import one_organization, visible
from cloudcrest.billing.schemas import BudgetView, CreateBudget, Identifier, UpdateBudget
from cloudcrest.billing.service.budgets import Budgets
from cloudcrest.billing.views import view_budget
from cloudcrest.identity.api import Caller, Owners, Permission
from cloudcrest.identity.http import CallerDep
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep
from cloudcrest.kernel.errors import InvalidInput, NotFound
from cloudcrest.kernel.money import parse_amount

BudgetPath = Annotated[Identifier, Path(examples=["bud_01k9zq3v5e8m2n4p6r8t0w2y4z"])]


def router(service: Budgets, owners: Owners) -> APIRouter:
    """The routes of budgets."""
    routes = APIRouter(prefix="/budgets", tags=["billing"], responses=responses(400, 401, 403, 404))
    _add_reading(routes, service)
    _add_changing(routes, service, owners)
    return routes


def _add_reading(routes: APIRouter, service: Budgets) -> None:
    @routes.get("", operation_id="list_budgets", summary="List budgets")
    async def list_budgets(
        *,
        session: SessionDep,
        caller: CallerDep,
        page: PageDep,
        organization_id: Annotated[Identifier | None, Query(description="Only of this organization")] = None,
        project_id: Annotated[Identifier | None, Query(description="Only of this project")] = None,
        key_id: Annotated[Identifier | None, Query(description="Only of this API key")] = None,
    ) -> Page[BudgetView]:
        """Budgets with what is spent, reserved and left in the present period, newest first. Needs `billing:read`."""
        wanted = visible(caller, "billing:read", organization_id=organization_id, project_id=project_id, key_id=key_id)
        states = await service.page(session, wanted, before_id=page.cursor, limit=page.limit + 1)
        return page.page([view_budget(state) for state in states], [state.budget.id for state in states])

    @routes.get("/{budget_id}", operation_id="get_budget", summary="Show a budget")
    async def get_budget(session: SessionDep, caller: CallerDep, budget_id: BudgetPath) -> BudgetView:
        """One budget as it stands. Needs `billing:read`."""
        return view_budget(await _own(session, service, caller, "billing:read", budget_id))


def _add_changing(routes: APIRouter, service: Budgets, owners: Owners) -> None:
    @routes.post(
        "", operation_id="create_budget", summary="Limit what may be spent", status_code=201, responses=responses(409)
    )
    async def create_budget(session: SessionDep, caller: CallerDep, body: CreateBudget) -> BudgetView:
        """A hard budget, in force within a second: not a unit more is charged, whatever runs at once.

        Needs `billing:write`.
        """
        organization_id, project_id = await _target(session, owners, caller, body)
        state = await service.create(
            session,
            organization_id=organization_id,
            project_id=project_id,
            key_id=body.key_id,
            period=body.period,
            amount=parse_amount(body.amount, field="body.amount"),
            currency=body.currency,
            created_by=caller.id,
        )
        return view_budget(state)

    @routes.patch("/{budget_id}", operation_id="update_budget", summary="Change a budget")
    async def update_budget(
        session: SessionDep, caller: CallerDep, budget_id: BudgetPath, body: UpdateBudget
    ) -> BudgetView:
        """Raises or lowers the limit. Needs `billing:write`."""
        await _own(session, service, caller, "billing:write", budget_id)
        return view_budget(await service.set_amount(session, budget_id, parse_amount(body.amount, field="body.amount")))

    @routes.delete("/{budget_id}", operation_id="delete_budget", summary="Delete a budget", status_code=204)
    async def delete_budget(session: SessionDep, caller: CallerDep, budget_id: BudgetPath) -> None:
        """Lifts the limit. Needs `billing:write`."""
        await _own(session, service, caller, "billing:write", budget_id)
        await service.delete(session, budget_id)


async def _own(
    session: AsyncSession, service: Budgets, caller: Caller, permission: Permission, budget_id: str
) -> BudgetState:
    state = await service.get(session, budget_id)
    budget = state.budget
    missing = f"there is no budget '{budget_id}'"
    caller.require(permission, budget.organization_id, budget.project_id, missing=missing)
    return state


async def _target(session: AsyncSession, owners: Owners, caller: Caller, body: CreateBudget) -> tuple[str, str | None]:
    """The organization and project a budget is for, which the caller may spend for."""
    found: dict[str, tuple[str, str | None]] = {}
    if body.key_id is not None:
        found["key_id"] = await owners.of_key(session, body.key_id) or ("", None)
        caller.require("billing:write", *found["key_id"], missing=f"there is no key '{body.key_id}'")
    if body.project_id is not None:
        found["project_id"] = (await owners.of_project(session, body.project_id) or "", body.project_id)
        caller.require("billing:write", *found["project_id"], missing=f"there is no project '{body.project_id}'")
    if body.organization_id is not None or not found:
        found["organization_id"] = (one_organization(caller, "billing:write", body.organization_id), None)
    for name, (organization_id, _) in found.items():
        if not organization_id:  # an operator may do everything, but not with what is not there
            raise NotFound(f"there is no {name.removesuffix('_id')} of this id")
    name, (organization_id, project_id) = next(iter(found.items()))
    for other, (of_organization, of_project) in found.items():
        if of_organization != organization_id or of_project not in (None, project_id):
            raise InvalidInput(f"this {name} is not of this {other}", param=f"body.{other}")
    return organization_id, project_id
