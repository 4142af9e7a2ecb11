"""The routes of usage and money under /api/v1, and the one that regions send usage to."""

from fastapi import APIRouter

from cloudcrest.billing.routes import budgets, ledger, rate_cards, usage
from cloudcrest.billing.routes.internal import internal_router
from cloudcrest.billing.service.accounts import Accounts
from cloudcrest.billing.service.budgets import Budgets
from cloudcrest.billing.service.rate_cards import RateCards
from cloudcrest.billing.service.usage import UsageReport
from cloudcrest.billing.service.verification import Verification
from cloudcrest.identity.api import Owners

__all__ = ["internal_router", "router"]


def router(
    report: UsageReport,
    cards: RateCards,
    accounts: Accounts,
    verification: Verification,
    *,
    budget_service: Budgets,
    owners: Owners,
) -> APIRouter:
    """The management routes."""
    routes = APIRouter(prefix="/api/v1")
    routes.include_router(usage.router(report))
    routes.include_router(rate_cards.router(cards))
    routes.include_router(ledger.router(accounts, verification))
    routes.include_router(budgets.router(budget_service, owners))
    return routes
