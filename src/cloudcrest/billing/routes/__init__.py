"""The routes of usage and money under /api/v1, and the one that regions send usage to."""

from fastapi import APIRouter

from cloudcrest.billing.routes import ledger, rate_cards, usage
from cloudcrest.billing.routes.internal import internal_router
from cloudcrest.billing.service.accounts import Accounts
from cloudcrest.billing.service.rate_cards import RateCards
from cloudcrest.billing.service.usage import UsageReport
from cloudcrest.billing.service.verification import Verification

__all__ = ["internal_router", "router"]


def router(report: UsageReport, cards: RateCards, accounts: Accounts, verification: Verification) -> APIRouter:
    """The management routes."""
    routes = APIRouter(prefix="/api/v1")
    routes.include_router(usage.router(report))
    routes.include_router(rate_cards.router(cards))
    routes.include_router(ledger.router(accounts, verification))
    return routes
