"""Stands in for the region and the control plane behind it: budgets and prices of the feed, and grants without end."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import msgspec

from cloudcrest.billing.api import RATE_CARD_KIND, RateCard, RateCardsDocument
from cloudcrest.billing.grants import GRANTS_PATH, Grant, GrantsAnswer, GrantsRequest
from cloudcrest.billing.periods import BUDGET_KIND, BudgetDocument, balance_document

CURRENCY = "USD"


def balance(organization_id: str) -> tuple[str, BudgetDocument]:
    """The kind and the document of an organization's prepaid balance."""
    return BUDGET_KIND, balance_document(organization_id, CURRENCY)


def key_budget(organization_id: str, project_id: str, key_id: str) -> tuple[str, BudgetDocument]:
    """The same of a monthly budget of one key."""
    return BUDGET_KIND, BudgetDocument(
        f"bud_{key_id.removeprefix('key_')}", organization_id, CURRENCY, "month", project_id, key_id
    )


def prices(model: str) -> tuple[str, RateCardsDocument]:
    """The same of what a model costs."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    card = RateCard(f"rate_{0:026d}", model, CURRENCY, began, Decimal("0.15"), Decimal("0.075"), Decimal("0.60"))
    return RATE_CARD_KIND, RateCardsDocument(model, CURRENCY, (card,))


class _Bank(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        request = msgspec.json.decode(body, type=GrantsRequest)
        answer = msgspec.json.encode(
            GrantsAnswer(
                tuple(
                    Grant(ask.grant_id, ask.scope, request.holder, ask.wanted, ask.ends_at_microseconds)
                    for ask in request.asks
                )
            )
        )
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Says nothing: the benchmark's table is what is printed."""


@contextmanager
def bank() -> Iterator[str]:
    """Where a gateway asks for grants; each is given as it is wished for."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Bank) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}{GRANTS_PATH}"
        finally:
            server.shutdown()
            thread.join()
