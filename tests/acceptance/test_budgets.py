"""Hard budgets over four gateway workers: not a unit over, whatever runs at once and whatever is killed."""

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from cloudcrest.gateway.claims import OVERHEAD_TOKENS
from tests.acceptance.tenants import QUESTION, Tenant, answered, infer, sign_up
from tests.support.burst import Answer, Burst, ask
from tests.support.cloud import Cloud, new_cloud
from tests.support.waiting import until, until_async

pytestmark = pytest.mark.anyio
WORKERS = ("gateway", "gateway-1", "gateway-2", "gateway-3")
MODEL = "simulated-budget"
INPUT, OUTPUT = Decimal("1e-6"), Decimal("1e-5")
MOST_INPUT_TOKENS = 400
WISHES = (20, 200)
LARGEST = MOST_INPUT_TOKENS * INPUT + WISHES[1] * OUTPUT


@pytest.fixture(scope="module")
def four() -> Iterator[Cloud]:
    """A cloud of four gateway workers with one simulated model, which has a price."""
    with new_cloud(flags=["--no-default-models", "--gateway-workers", "4"]) as cloud:
        cloud.start()
        with cloud.client(cloud.operator_key) as operator:
            prices = {"input_price_per_million_tokens": "1", "output_price_per_million_tokens": "10"}
            answered(operator.post("/api/v1/rate-cards", json={"model": MODEL, **prices}), 201)
            body = {
                "model": "smollm2-135m-instruct",
                "name": MODEL,
                "engine": "simulated",
                "slots": 64,
                "engine_options": {"decode_tokens_per_second": 1000.0, "answer_tokens": 120},
            }
            deployment = answered(operator.post("/api/v1/deployments", json=body), 201)["id"]
            until(lambda: answered(operator.get(f"/api/v1/deployments/{deployment}"))["state"] == "ready", "the model")
        yield cloud


@pytest.fixture
def tenant(four: Cloud) -> Iterator[Tenant]:
    made = sign_up(four.base_url)
    yield made
    made.http.close()


def budget(tenant: Tenant, amount: str, **target: str) -> str:
    body = {"amount": amount, "period": "total", **target}
    return str(answered(tenant.http.post("/api/v1/budgets", json=body), 201)["id"])


async def state_of(tenant: Tenant, budget_id: str) -> dict[str, Decimal]:
    """What it says of money; nothing where the control plane does not answer."""
    names = ("amount", "spent", "reserved", "remaining")
    try:
        answer = await asyncio.to_thread(tenant.http.get, f"/api/v1/budgets/{budget_id}", timeout=5)
    except httpx2.HTTPError:
        return {}
    return {name: Decimal(answer.json()[name]) for name in names} if answer.status_code == 200 else {}


async def is_spent(tenant: Tenant, budget_id: str, burst: Burst) -> bool:
    """Whether not even the cheapest of those that wait would be admitted."""
    state = await state_of(tenant, budget_id)
    cheapest = min(
        (len(body) + OVERHEAD_TOKENS) * INPUT + max_tokens * OUTPUT for body, max_tokens in burst.waiting.values()
    )
    return bool(state) and state["remaining"] < cheapest


def check_books(cloud: Cloud, tenant: Tenant, burst: Burst, budget_id: str, amount: Decimal) -> None:
    """Everything is charged once and no more than there was, and little is left."""

    def charged() -> dict[str, Any]:
        found: dict[str, Any] = {}
        cursor: dict[str, str] = {}
        while True:
            page = answered(tenant.http.get("/api/v1/usage", params={"limit": 200, **cursor}))
            found |= {item["id"]: item for item in page["data"]}
            if not page.get("next_cursor"):
                return found
            cursor = {"cursor": page["next_cursor"]}

    wanted = len(burst.answered)
    until(lambda: len(charged()) >= wanted, "all usage has arrived")
    until(lambda: answered(tenant.http.get(f"/api/v1/budgets/{budget_id}"))["reserved"] == "0", "nothing is reserved")
    state = answered(tenant.http.get(f"/api/v1/budgets/{budget_id}"))
    items = charged().values()
    spent = sum(Decimal(item["charge"]["amount"]) for item in items)
    assert Decimal(state["spent"]) == spent <= amount
    assert amount - spent < len(WORKERS) * LARGEST
    told = sum(
        each["usage"]["prompt_tokens"] * INPUT + each["usage"]["completion_tokens"] * OUTPUT for each in burst.answered
    )
    assert spent >= told
    with cloud.client(cloud.operator_key) as operator:
        assert answered(operator.post("/api/v1/ledger/verify", json={}))["ok"]


async def test_a_thousand_at_once_spend_a_budget_for_a_hundred_and_not_a_unit_more(four: Cloud, tenant: Tenant) -> None:
    rng = random.Random(1)
    amount = Decimal("0.08")
    budget_id = budget(tenant, str(amount), key_id=tenant.key["id"])
    await until_async(lambda: is_held(four, tenant, budget_id), "the budget holds")
    burst = Burst(four.base_url, tenant.key["key"], MODEL, [rng.randint(*WISHES) for _ in range(1_000)])
    running = asyncio.create_task(burst.run())

    await until_async(lambda: is_spent(tenant, budget_id, burst), "the budget is spent", seconds=30, pause_seconds=0.3)
    burst.stop()
    await running

    assert burst.others == []
    assert 40 < len(burst.answered) < 400
    assert burst.refusals > 100
    check_books(four, tenant, burst, budget_id, amount)


async def test_killing_anything_at_random_changes_nothing_of_that(four: Cloud, tenant: Tenant) -> None:
    rng = random.Random(2)
    amount = Decimal("0.15")
    budget_id = budget(tenant, str(amount), project_id=tenant.project_id)
    await until_async(lambda: is_held(four, tenant, budget_id), "the budget holds")
    burst = Burst(four.base_url, tenant.key["key"], MODEL, [rng.randint(*WISHES) for _ in range(400)])
    running = asyncio.create_task(burst.run())

    for victim in rng.sample([*WORKERS[:2], "region", "control", "postgres", "replica"], 6):
        await asyncio.to_thread(os.kill, pid_of(four, victim), signal.SIGKILL)
        await until_async(progress(burst), "somebody is answered or refused", pause_seconds=0.2)
    await until_async(lambda: is_spent(tenant, budget_id, burst), "the budget is spent", seconds=40, pause_seconds=0.3)
    burst.stop()
    await running

    check_books(four, tenant, burst, budget_id, amount)


def pid_of(cloud: Cloud, victim: str) -> int:
    if victim == "postgres":
        return until(lambda: cloud.children_of("postgres"), "the database server's start")[0]
    if victim == "replica":
        return until(cloud.replica_pids, "the replica's start")[0]
    return cloud.pid_of(victim)


def progress(burst: Burst) -> Callable[[], bool]:
    before = len(burst.answered) + burst.refusals
    return lambda: len(burst.answered) + burst.refusals >= before + 20


async def test_without_the_control_plane_a_budget_ends_at_what_was_granted_and_the_rest_goes_on(
    four: Cloud, tenant: Tenant
) -> None:
    other = tenant.make_key()["key"]
    budget_id = budget(tenant, "0.02", key_id=tenant.key["id"])
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 100}
    await until_async(lambda: is_held(four, tenant, budget_id), "the budget holds")
    for key in (other, tenant.key["key"]):  # so that each worker has been granted something
        assert {answer.status for answer in await many(four, key, {**body, "max_tokens": 1}, 48)} == {200}
    control = four.pid_of("control")
    os.kill(control, signal.SIGSTOP)
    try:
        statuses: set[int] = set()
        for _ in range(10):
            statuses = {answer.status for answer in await many(four, tenant.key["key"], body, 12)}
            assert statuses <= {200, 429}
            if statuses == {429}:
                break
        assert statuses == {429}
        assert {answer.status for answer in await many(four, other, body, 12)} == {200}
    finally:
        os.kill(control, signal.SIGCONT)

    async def goes_on() -> bool:
        return (await ask(four.base_url, tenant.key["key"], body)).status == 200

    await until_async(goes_on, "what was not granted is granted now")
    until(lambda: Decimal(show(tenant, budget_id)["spent"]) > 0, "it is charged")
    assert Decimal(show(tenant, budget_id)["remaining"]) >= 0


async def many(cloud: Cloud, key: str, body: dict[str, Any], count: int) -> list[Answer]:
    """So many at once; of many, each worker has some."""
    return await asyncio.gather(*(ask(cloud.base_url, key, body) for _ in range(count)))


async def is_held(cloud: Cloud, tenant: Tenant, budget_id: str) -> bool:
    """Whether gateways know of a budget: a request that says little reserves from it."""
    await ask(cloud.base_url, tenant.key["key"], {**QUESTION, "model": MODEL, "max_tokens": 1})
    return Decimal((await asyncio.to_thread(show, tenant, budget_id))["reserved"]) > 0


def show(tenant: Tenant, budget_id: str) -> dict[str, Any]:
    return answered(tenant.http.get(f"/api/v1/budgets/{budget_id}"))


def test_an_answer_without_a_limit_is_as_long_as_the_budget_affords(four: Cloud, tenant: Tenant) -> None:
    budget(tenant, "0.0008", key_id=tenant.key["id"])
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Why?"}]}

    def is_short() -> dict[str, Any] | None:
        answer = infer(four.base_url, tenant.key["key"], "POST", "/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found if found["choices"][0]["finish_reason"] == "length" else None

    answer = until(is_short, "the budget is known at the gateways")
    assert answer is not None
    assert 0 < answer["usage"]["completion_tokens"] < 80
    refused = infer(four.base_url, tenant.key["key"], "POST", "/v1/chat/completions", json={**body, "max_tokens": 100})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "API key" in refused.json()["error"]["message"]


async def test_a_balance_is_as_hard_and_a_credit_raises_it(four: Cloud, tenant: Tenant) -> None:
    credit = {"organization_id": tenant.organization_id, "note": "test"}
    with four.client(four.operator_key) as operator:
        answered(operator.post("/api/v1/ledger/credits", json={**credit, "amount": "-9.99"}), 201)
        burst = Burst(four.base_url, tenant.key["key"], MODEL, [100] * 60)
        running = asyncio.create_task(burst.run())

        def balance() -> Decimal:
            return Decimal(answered(tenant.http.get("/api/v1/ledger/balance"))["amount"])

        await until_async(lambda: asyncio.to_thread(lambda: balance() < 120 * OUTPUT), "it is spent", pause_seconds=0.3)
        burst.stop()
        await running
        until(lambda: len(tenant.usage()) == len(burst.answered), "all usage has arrived")
        assert 0 <= balance() < 120 * OUTPUT
        body = {**QUESTION, "model": MODEL, "max_tokens": 200}
        refused = await ask(four.base_url, tenant.key["key"], body)
        assert (refused.status, "the organization's balance" in refused.body.decode()) == (429, True)

        answered(operator.post("/api/v1/ledger/credits", json={**credit, "amount": "1"}), 201)
        assert (await ask(four.base_url, tenant.key["key"], body)).status == 200
