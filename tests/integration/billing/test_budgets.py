"""Budgets in the database: granted, charged, given back, shown; each to whom it belongs."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx2
import msgspec
import pytest

from cloudcrest.billing.grants import Ask, DrainReport, GrantsAnswer, GrantsRequest, Promise
from cloudcrest.billing.periods import BUDGET_KIND, balance_document, microseconds
from cloudcrest.billing.service.rate_cards import Prices
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.infra.publication import read_page
from cloudcrest.kernel.errors import PermissionDenied
from cloudcrest.kernel.usage import Hold, Usage
from cloudcrest.metering.api import UsageBatch, UsageFilter
from tests.integration.billing.conftest import Billing
from tests.integration.billing.test_routes import client, get, post  # noqa: F401 - a fixture
from tests.unit.metering.events import usage_event

pytestmark = pytest.mark.anyio
UNIT = 10**18
BALANCE = balance_document("org_a", "USD").id


def ask(billing: Billing, number: int, scope: str, needed: int, holder: str = "gw") -> Ask:
    ends_at = microseconds(billing.clock.now() + timedelta(hours=2))
    return Ask(f"{holder}.{number}", scope, needed, needed, needed, ends_at)


async def exchange(billing: Billing, request: GrantsRequest, region: str = "local") -> GrantsAnswer:
    async with billing.database.transaction() as session:
        return await billing.granting.exchange(session, region, request)


async def asked(billing: Billing, *asks: Ask, holder: str = "gw") -> GrantsAnswer:
    return await exchange(billing, GrantsRequest(holder, asks))


async def test_no_more_is_granted_than_there_is_and_what_is_given_back_is_granted_again(billing: Billing) -> None:
    await billing.open_account("org_a")  # with 10 USD
    first = ask(billing, 1, BALANCE, 7 * UNIT)
    assert [grant.units for grant in (await asked(billing, first)).grants] == [7 * UNIT]
    assert [grant.units for grant in (await asked(billing, first)).grants] == [7 * UNIT]

    answer = await asked(billing, ask(billing, 2, BALANCE, 4 * UNIT))
    assert (answer.grants, answer.refusals[0].left_units) == ((), 3 * UNIT)
    watching = await exchange(billing, GrantsRequest("gw"))
    assert watching.recalled == (BALANCE,)

    promise = Promise(BALANCE, "gw.1", 6 * UNIT, first.ends_at_microseconds)
    request = GrantsRequest("gw", (ask(billing, 3, BALANCE, 4 * UNIT),), (promise,))
    assert [grant.id for grant in (await exchange(billing, request)).grants] == ["gw.3"]


async def test_an_event_draws_on_what_it_names_and_a_drained_holder_on_nothing(billing: Billing) -> None:
    await billing.open_account("org_a")
    await asked(billing, ask(billing, 1, BALANCE, 9 * UNIT))
    event = usage_event(1, usage=Usage(100_000_000, 0), grants=(Hold(BALANCE, "gw.1", 3 * UNIT),))  # 2 USD
    async with billing.database.transaction() as session:
        await billing.ingest.ingest(session, "local", UsageBatch((event, event)))
    refusal = (await asked(billing, ask(billing, 2, BALANCE, 2 * UNIT))).refusals[0]
    assert (refusal.left_units, refusal.reserved_units) == (UNIT, 7 * UNIT)

    async with billing.database.transaction() as session:
        assert (await billing.granting.drained(session, "local", DrainReport())).holders == ("gw",)
        assert (await billing.granting.drained(session, "other", DrainReport(("gw",)))).holders == ()
        assert (await billing.granting.drained(session, "local", DrainReport())).holders == ("gw",)
        assert (await billing.granting.drained(session, "local", DrainReport(("gw",)))).holders == ()
    assert [grant.units for grant in (await asked(billing, ask(billing, 3, BALANCE, 8 * UNIT))).grants] == [8 * UNIT]


async def test_a_region_cannot_touch_anothers_grants(billing: Billing) -> None:
    await billing.open_account("org_a")
    first = ask(billing, 1, BALANCE, UNIT)
    await asked(billing, first)
    with pytest.raises(PermissionDenied):
        await exchange(billing, GrantsRequest("gw", promises=(Promise(BALANCE, "gw.1", 0, 2**60),)), region="other")


async def test_an_event_is_priced_as_it_was_admitted_and_kept_as_it_came(billing: Billing) -> None:
    await billing.open_account("org_a")
    billing.clock.advance(86_400)
    model = "smollm2-135m-instruct"
    nine = Prices(Decimal(9), Decimal(9), Decimal(9))
    async with billing.database.transaction() as session:
        (card,) = await billing.cards.page(session, PageRequest(), model=model, currency="USD", history=False)
        await billing.cards.create(session, model, "USD", nine, valid_from=None, created_by=None)
    at = microseconds(billing.clock.now())
    hold = (Hold(BALANCE, "gw.1", 10**30),)
    quoted = usage_event(1, started_at_microseconds=at, rate_card_id=card.id, grants=hold)
    present = usage_event(2, started_at_microseconds=at)
    async with billing.database.transaction() as session:
        await billing.ingest.ingest(session, "local", UsageBatch((quoted, present)))
    async with billing.database.transaction() as session:
        items = await billing.report.read(session, UsageFilter(), before_id=None, limit=10)
    assert {item.event.id: item.entry.rate_card_id == card.id for item in items if item.entry} == {
        quoted.id: True,
        present.id: False,
    }
    assert quoted in [item.event for item in items]
    assert (await billing.verification.verify(billing.database, None)).is_consistent


async def test_a_budget_counts_its_period_and_its_own(billing: Billing, client: httpx2.AsyncClient) -> None:  # noqa: F811
    made = [
        (await post(client, "owner_a", "/budgets", {"key_id": "key_a", "period": period, "amount": "1"})).json()
        for period in ("day", "month", "total")
    ]
    assert [budget["spent"] for budget in made] == ["0.00000147"] * 3  # the one event of key_a so far is of today
    whole = (await post(client, "owner_a", "/budgets", {"period": "total", "amount": "0.000003"})).json()
    assert (whole["spent"], whole["remaining"]) == ("0.00000294", "0.00000006")
    assert (await asked(billing, ask(billing, 1, whole["id"], 60_000_000_001))).grants == ()
    assert (await asked(billing, ask(billing, 2, whole["id"], 60_000_000_000))).grants != ()

    event = usage_event(9, started_at_microseconds=microseconds(billing.clock.now()))
    async with billing.database.transaction() as session:
        await billing.ingest.ingest(session, "local", UsageBatch((event,)))
    states = {each["id"]: each for each in (await get(client, "owner_a", "/budgets")).json()["data"]}
    assert states[made[0]["id"]]["spent"] == "0.00000294"
    assert states[whole["id"]]["reserved"] == "0.00000006"

    billing.clock.advance(40 * 86_400)
    states = {each["id"]: each for each in (await get(client, "owner_a", "/budgets")).json()["data"]}
    assert [states[each["id"]]["spent"] for each in made] == ["0", "0", "0.00000294"]


async def test_gateways_are_told_whose_requests_a_budget_holds(
    billing: Billing,
    client: httpx2.AsyncClient,  # noqa: F811
) -> None:
    made = (await post(client, "owner_a", "/budgets", {"project_id": "proj_a2", "period": "day", "amount": "1"})).json()
    documents = await published(billing)
    assert documents[made["id"]]["project_id"] == "proj_a2"
    assert documents[BALANCE] == {"id": BALANCE, "organization_id": "org_a", "currency": "USD"}
    assert (await client.delete(f"/api/v1/budgets/{made['id']}", headers={"x-caller": "owner_a"})).status_code == 204
    assert made["id"] not in await published(billing)
    async with billing.database.transaction() as session:
        await billing.budgets.publish_missing(session)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"amount": "1", "period": "day", "key_id": "key_b"}, 404),
        ({"amount": "1", "period": "day", "project_id": "proj_b"}, 404),
        ({"amount": "1", "period": "day", "organization_id": "org_b"}, 404),
        ({"amount": "-1", "period": "day"}, 422),
        ({"amount": "1", "period": "week"}, 422),
        ({"amount": "1", "period": "day", "key_id": "key_a", "project_id": "proj_a2"}, 400),
        ({"amount": "1", "period": "day", "key_id": "key_a", "project_id": "proj_b"}, 404),
        ({"amount": "1", "period": "day", "currency": "EUR"}, 400),
    ],
)
async def test_what_is_no_budget_is_refused(
    client: httpx2.AsyncClient,  # noqa: F811
    body: dict[str, str],
    status: int,
) -> None:
    answer = await post(client, "owner_a", "/budgets", body)
    assert answer.status_code in (status, 400 if status == 422 else status), answer.text


async def test_budgets_are_their_organizations_alone(client: httpx2.AsyncClient) -> None:  # noqa: F811
    made = (await post(client, "owner_a", "/budgets", {"period": "month", "amount": "5"})).json()
    path = f"/api/v1/budgets/{made['id']}"
    for caller, status in (("owner_b", 404), ("nobody", 404), ("viewer_a", 403), ("owner_a", 200)):
        headers = {"x-caller": caller}
        assert (await client.get(path, headers=headers)).status_code == status
        changed = await client.patch(path, headers=headers, json={"amount": "6"})
        assert changed.status_code == status
        listed = await get(client, caller, "/budgets")
        assert listed.status_code == 403 or (made["id"] in listed.text) == (caller == "owner_a")
    for caller, status in (("owner_b", 404), ("nobody", 404), ("viewer_a", 403), ("owner_a", 204)):
        assert (await client.delete(path, headers={"x-caller": caller})).status_code == status
    assert (await get(client, "owner_a", f"/budgets/{made['id']}")).status_code == 404


async def published(billing: Billing) -> dict[str, dict[str, Any]]:
    async with billing.database.transaction() as session:
        page = await read_page(session, "", region="local")
    return {each.id: each.body for each in page.documents if each.kind == BUDGET_KIND and each.body is not None}


def test_grants_are_read_as_they_were_written() -> None:
    request = GrantsRequest("gw", (Ask("gw.1", BALANCE, 1, 2 * 10**20, 10**40, 2**60),))
    assert msgspec.json.decode(msgspec.json.encode(request), type=GrantsRequest) == request
