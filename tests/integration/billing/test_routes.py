"""The routes of usage and money: what they show, to whom, and how usage comes in."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing import budget_repository
from cloudcrest.billing.routes import internal_router, router
from cloudcrest.identity.api import Caller, Membership
from cloudcrest.kernel.errors import InvalidInput, PermissionDenied, Unavailable
from cloudcrest.metering.api import UsageBatch
from cloudcrest.metering.link import usage_sender
from cloudcrest.metering.shipper import Shipper
from cloudcrest.metering.spool import SpoolWriter
from tests.integration.billing.conftest import Billing
from tests.support.management import REGION_TOKEN, linked_region, management_client
from tests.unit.metering.events import end_event, open_event, usage_event

pytestmark = pytest.mark.anyio
CALLERS = {
    "operator": Caller(kind="user", id="user_o", is_operator=True),
    "owner_a": Caller(kind="user", id="user_a", memberships=(Membership("org_a", "owner"),)),
    "viewer_a": Caller(kind="user", id="user_v", memberships=(Membership("org_a", "viewer"),)),
    "owner_b": Caller(kind="key", id="key_b", memberships=(Membership("org_b", "owner"),)),
    "developer_a2": Caller(kind="user", id="user_d", memberships=(Membership("org_a", "developer", "proj_a2"),)),
    "nobody": Caller(kind="user", id="user_n"),
}


class KnownOwners:
    """Identity as billing sees it: the projects and keys of two tenants."""

    async def of_project(self, session: AsyncSession, project_id: str) -> str | None:  # noqa: ARG002
        return {"proj_a": "org_a", "proj_a2": "org_a", "proj_b": "org_b"}.get(project_id)

    async def of_key(self, session: AsyncSession, key_id: str) -> tuple[str, str] | None:  # noqa: ARG002
        return {"key_a": ("org_a", "proj_a"), "key_b": ("org_b", "proj_b")}.get(key_id)


@pytest.fixture
async def client(billing: Billing) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an app with billing's routes; the header `x-caller` says who calls. Two tenants have usage."""
    for name in ("org_a", "org_b"):
        await billing.open_account(name)
    events = (
        usage_event(1),
        usage_event(2, project_id="proj_a2", key_id="key_a2"),
        usage_event(3, organization_id="org_b", project_id="proj_b", key_id="key_b"),
        usage_event(4, organization_id="org_b", project_id="proj_b", key_id="key_b", model="new-model"),
    )
    async with billing.database.transaction() as session:
        await billing.ingest.ingest(session, "local", UsageBatch(events))
    routers = (
        router(
            billing.report,
            billing.cards,
            billing.accounts,
            billing.verification,
            budget_service=billing.budgets,
            owners=KnownOwners(),
        ),
        internal_router(billing.ingest, billing.granting),
    )
    regions = await linked_region(billing.database, billing.clock)
    async with management_client(billing.database, *routers, callers=CALLERS, regions=regions) as client:
        yield client


async def billing_recalls(billing: Billing) -> list[str]:
    async with billing.database.transaction() as session:
        return await budget_repository.recalled(session, billing.clock.now())


async def get(client: httpx2.AsyncClient, caller: str, path: str, **query: Any) -> httpx2.Response:
    return await client.get(f"/api/v1{path}", params=query, headers={"x-caller": caller})


async def post(client: httpx2.AsyncClient, caller: str, path: str, body: object) -> httpx2.Response:
    return await client.post(f"/api/v1{path}", json=body, headers={"x-caller": caller})


def ids_of(answer: httpx2.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [int(item["id"][-3:]) for item in answer.json()["data"]]


async def test_a_request_is_shown_with_prices_and_charge(client: httpx2.AsyncClient) -> None:
    (shown,) = (await get(client, "owner_a", "/usage", key_id="key_a")).json()["data"]
    assert shown["usage"] == {
        "input_tokens": 37,
        "cached_input_tokens": 7,
        "output_tokens": 20,
        "reasoning_tokens": 0,
        "is_estimate": False,
        "cache_write_tokens": 0,
        "characters": 0,
        "audio_milliseconds": 0,
        "images": 0,
        "accelerator_milliseconds": 0,
        "cpu_milliseconds": 0,
    }
    assert shown["tier"] == "standard"
    assert (shown["outcome"], shown["started_at"]) == ("completed", "2026-01-01T00:00:00.000001Z")
    charge = shown["charge"]
    assert (charge["amount"], charge["currency"]) == ("0.00000147", "USD")
    assert charge["lines"][0] == {
        "kind": "input",
        "quantity": 30,
        "unit": "million_tokens",
        "price": "0.02",
        "amount": "0.0000006",
    }
    entry = (await get(client, "owner_a", f"/ledger/entries/{charge['ledger_entry_id']}")).json()
    assert (entry["amount"], entry["usage_event_id"], entry["lines"]) == ("-0.00000147", shown["id"], charge["lines"])


async def test_usage_is_filtered_and_paged(client: httpx2.AsyncClient) -> None:
    assert ids_of(await get(client, "operator", "/usage")) == [4, 3, 2, 1]
    first = await get(client, "operator", "/usage", limit=3)
    assert ids_of(await get(client, "operator", "/usage", limit=3, cursor=first.json()["next_cursor"])) == [1]
    assert ids_of(await get(client, "operator", "/usage", model="new-model")) == [4]
    assert ids_of(await get(client, "operator", "/usage", project_id="proj_a2")) == [2]
    since, until = "2026-01-01T00:00:00.000002Z", "2026-01-01T00:00:00.000004Z"
    assert ids_of(await get(client, "operator", "/usage", since=since, until=until)) == [3, 2]
    assert (await get(client, "operator", "/usage", since="0001-01-01T00:00:00+14:00")).status_code == 400


async def test_tenants_see_their_own_alone(client: httpx2.AsyncClient) -> None:
    assert ids_of(await get(client, "owner_a", "/usage")) == [2, 1]
    assert ids_of(await get(client, "viewer_a", "/usage")) == [2, 1]
    assert ids_of(await get(client, "owner_b", "/usage")) == [4, 3]
    assert ids_of(await get(client, "developer_a2", "/usage")) == [2]
    assert ids_of(await get(client, "owner_a", "/usage", project_id="proj_b")) == []
    assert ids_of(await get(client, "owner_a", "/usage", key_id="key_b")) == []
    for path in ("/usage", "/usage/summary", "/usage/unpriced", "/ledger/entries", "/ledger/balance"):
        assert (await get(client, "owner_a", path, organization_id="org_b")).status_code == 404, path
        assert (await get(client, "owner_a", path, organization_id="org_none")).status_code == 404, path
        assert (await get(client, "", path)).status_code == 401, path
        assert (await get(client, "nobody", path)).status_code in {400, 403}, path
    for path in ("/ledger/entries", "/ledger/balance"):
        assert (await get(client, "viewer_a", path)).status_code == 403, path
    entries = (await get(client, "owner_b", "/ledger/entries")).json()["data"]
    assert {entry["organization_id"] for entry in entries} == {"org_b"}
    for entry in entries:
        assert (await get(client, "owner_a", f"/ledger/entries/{entry['id']}")).status_code == 404
        missing = await get(client, "owner_a", "/ledger/entries/led_none")
        found = await get(client, "owner_a", f"/ledger/entries/{entry['id']}")
        assert missing.text.replace("led_none", entry["id"]) == found.text
    (group,) = (await get(client, "owner_a", "/usage/summary")).json()["data"]
    assert (group["model"], group["requests"], group["amount"]) == ("smollm2-135m-instruct", 2, "0.00000294")
    assert (group["day"], group["cached_input_tokens"], group["cache_hit_rate"]) == (None, 14, 0.1892)
    (group,) = (await get(client, "owner_a", "/usage/summary", group_by="day_model")).json()["data"]
    assert (group["day"], group["model"], group["requests"]) == ("2026-01-01", "smollm2-135m-instruct", 2)
    assert (await get(client, "owner_a", "/usage/unpriced")).json()["data"] == []
    assert ids_of(await get(client, "owner_b", "/usage/unpriced")) == [4]


async def test_operators_credit_and_others_do_not(client: httpx2.AsyncClient, billing: Billing) -> None:
    body = {"organization_id": "org_a", "amount": "25.00", "note": "paid", "reference": "invoice-1"}
    assert (await post(client, "owner_a", "/ledger/credits", body)).status_code == 403
    one, again = [await post(client, "operator", "/ledger/credits", body) for _ in range(2)]
    assert (one.status_code, one.json()) == (201, again.json())
    balance = (await get(client, "owner_a", "/ledger/balance")).json()
    assert (balance["amount"], balance["currency"], balance["is_suspended"]) == ("34.99999706", "USD", False)
    back = {"organization_id": "org_a", "amount": "-40", "note": "a mistake"}
    assert (await post(client, "operator", "/ledger/credits", back)).json()["kind"] == "adjustment"
    assert (await get(client, "owner_a", "/ledger/balance")).json()["is_suspended"]
    assert (await billing_recalls(billing)) == ["bal_org_a"]
    for wrong in (
        {"amount": "0"},
        {"amount": "NaN"},
        {"amount": 5},
        {"currency": "EUR"},
        {"organization_id": "org_none"},
        {"note": ""},
        {"amount": "-1", "kind": "credit"},
        {"note": "other", "reference": "invoice-1"},
        {"note": "nul\0"},
    ):
        status = (await post(client, "operator", "/ledger/credits", body | {"reference": None} | wrong)).status_code
        assert 400 <= status < 500, wrong
    said = (await post(client, "operator", "/ledger/credits", body | {"amount": "abc", "currency": "usd"})).json()
    assert [(error["field"], error["message"]) for error in said["errors"]] == [
        ("body.amount", "is no amount, as in 25 or -0.50: up to 12 digits, a point, up to 18 decimals"),
        ("body.currency", "is no currency, as in USD"),
    ]


async def test_rate_cards_are_for_all_to_read_and_operators_to_make(
    client: httpx2.AsyncClient, billing: Billing
) -> None:
    listed = (await get(client, "viewer_a", "/rate-cards", model="smollm2-135m-instruct")).json()["data"]
    assert [card["input_price_per_million_tokens"] for card in listed] == ["0.02"]
    billing.clock.advance(60)
    body = {
        "model": "smollm2-135m-instruct",
        "input_price_per_million_tokens": "0.03",
        "output_price_per_million_tokens": "0.05",
    }
    assert (await post(client, "owner_a", "/rate-cards", body)).status_code == 403
    created = await post(client, "operator", "/rate-cards", body)
    assert (created.status_code, created.json()["cached_input_price_per_million_tokens"]) == (201, "0.03")
    listed = (await get(client, "viewer_a", "/rate-cards", model="smollm2-135m-instruct")).json()["data"]
    assert [card["id"] for card in listed] == [created.json()["id"]]
    history = (await get(client, "viewer_a", "/rate-cards", history=True, model="smollm2-135m-instruct")).json()
    assert len(history["data"]) == 2
    later = await post(client, "operator", "/rate-cards", body | {"valid_from": "2199-01-01T00:00:00Z"})
    path = f"/api/v1/rate-cards/{later.json()['id']}"
    assert (await client.delete(path, headers={"x-caller": "owner_a"})).status_code == 403
    assert (await client.delete(path, headers={"x-caller": "operator"})).status_code == 204
    assert (await get(client, "viewer_a", f"/rate-cards/{later.json()['id']}")).status_code == 404
    stays = await client.delete(f"/api/v1/rate-cards/{created.json()['id']}", headers={"x-caller": "operator"})
    assert stays.status_code == 409
    wrong = body | {"input_price_per_million_tokens": "1e-3"}
    assert (await post(client, "operator", "/rate-cards", wrong)).status_code == 422


async def test_the_ledger_is_verified_by_owners_and_operators(client: httpx2.AsyncClient) -> None:
    whole = (await post(client, "operator", "/ledger/verify", {})).json()
    assert (whole["ok"], whole["events_replayed"], whole["events_waiting"], whole["accounts_checked"]) == (
        True,
        4,
        1,
        2,
    )
    own = (await post(client, "owner_a", "/ledger/verify", {})).json()
    assert (own["ok"], own["events_replayed"], own["accounts_checked"]) == (True, 2, 1)
    assert own["charged"] == [{"currency": "USD", "amount": "0.00000294"}]
    assert (await post(client, "owner_a", "/ledger/verify", {"organization_id": "org_b"})).status_code == 404
    assert (await post(client, "viewer_a", "/ledger/verify", {})).status_code == 403


async def test_a_spool_becomes_a_bill(client: httpx2.AsyncClient, tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "gateway-0", floor_bytes=0)
    for number in range(10, 20):
        open_event(writer, usage_event(number))
        end_event(writer, usage_event(number))
    open_event(writer, usage_event(20))
    writer.close()
    shipper = Shipper(tmp_path, usage_sender(client, "http://control/", REGION_TOKEN), max_batch_events=4)
    while await shipper.ship_once():
        pass
    shown = (await get(client, "owner_a", "/usage", key_id="key_a")).json()["data"]
    assert len(shown) == 12
    assert (shown[0]["outcome"], shown[0]["usage"]["is_estimate"]) == ("gateway_lost", True)
    assert (await get(client, "owner_a", "/ledger/balance")).json()["amount"] == "9.99998089"


async def test_regions_are_known_and_send_their_own(client: httpx2.AsyncClient) -> None:
    with pytest.raises(Unavailable):  # an unknown token is for later, not the batch's fault
        await usage_sender(client, "http://control", "wrong")(UsageBatch((usage_event(30),)))
    with pytest.raises(PermissionDenied) as caught:
        await usage_sender(client, "http://control", REGION_TOKEN)(UsageBatch((usage_event(30, region="other"),)))
    assert caught.value.code == "foreign_region"
    with pytest.raises(InvalidInput):
        await usage_sender(client, "http://control", REGION_TOKEN)(UsageBatch((usage_event(30, model="m" * 999),)))
    headers = {"authorization": f"Bearer {REGION_TOKEN}"}
    for body in (b"", b"{}", b"[]", b"\xff", b'{"events": [{}]}'):
        assert (await client.post("/internal/v1/usage", content=body, headers=headers)).status_code == 400
    empty = await client.post("/internal/v1/usage", content=msgspec.json.encode(UsageBatch(())), headers=headers)
    assert empty.json() == {"accepted": 0, "duplicates": 0}
