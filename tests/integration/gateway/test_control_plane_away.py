"""The control plane is away for an hour, by the clock: what is served meanwhile is charged once, and no unit more."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudcrest.billing.grants import GrantsRequest
from cloudcrest.billing.periods import microseconds
from cloudcrest.billing.service.rate_cards import Prices
from cloudcrest.gateway import desk
from cloudcrest.gateway.server import Gateway
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.infra.feed_client import save_state
from cloudcrest.infra.publication import read_page
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.errors import Unavailable
from cloudcrest.kernel.usage import UsageEvent
from cloudcrest.metering.api import IngestReceipt, UsageBatch, UsageFilter
from cloudcrest.metering.shipper import Shipper
from cloudcrest.metering.spool import SpoolWriter
from tests.integration.billing.conftest import Billing, billing  # noqa: F401 - a fixture
from tests.support.burst import ask
from tests.support.gateway_cloud import (
    COMPLETION,
    KEY,
    ScriptedUpstream,
    feed_state,
    json_answer,
    key_document,
    route_document,
)
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
HOUR = timedelta(hours=1).total_seconds()
FREE_KEY = "sk-cc-free"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 7}
INPUT, OUTPUT = Decimal("0.000001"), Decimal("0.00001")
CHARGE = 5 * INPUT + 7 * OUTPUT
BUDGET = 200 * CHARGE


@pytest.fixture
def clock() -> ManualClock:
    """Beside the real one at first: connections live by that."""
    return ManualClock(datetime.now(UTC))


class Away:
    """A control plane that can be away, the link to it, and the clock, which moves while the region waits to retry."""

    def __init__(self, control: Billing) -> None:
        self.control = control
        self.clock = control.clock
        self.is_away = False
        self.failures = 0
        self.turn = asyncio.Semaphore(0)

    async def send(self, batch: UsageBatch) -> IngestReceipt:
        self._reach()
        async with self.control.database.transaction() as session:
            return await self.control.ingest.ingest(session, "local", batch)

    async def exchange(self, body: bytes) -> bytes:
        self._reach()
        async with self.control.database.transaction() as session:
            request = msgspec.json.decode(body, type=GrantsRequest)
            return msgspec.json.encode(await self.control.granting.exchange(session, "local", request))

    async def sleep(self, seconds: float) -> None:
        """The shipper's. While the control plane is away it takes turns with the clients."""
        if self.is_away:
            self.clock.advance(seconds)
            await self.turn.acquire()
        await asyncio.sleep(0)

    def _reach(self) -> None:
        if self.is_away:
            self.failures += 1
            raise Unavailable("the control plane is away")


async def prepare(control: Billing) -> str:
    """An organization with money, a price, and a budget of one of its keys; the budget's id."""
    await control.open_account("org_1")
    async with control.database.transaction() as session:
        prices = Prices(Decimal(1), Decimal(1), Decimal(10))
        await control.cards.create(session, "m", "USD", prices, valid_from=None, created_by=None)
        state = await control.budgets.create(
            session,
            organization_id="org_1",
            project_id=None,
            key_id="key_test",
            period="total",
            amount=BUDGET,
            currency="USD",
            created_by="user_1",
        )
    control.clock.advance(60)  # the price holds now
    return state.budget.id


@asynccontextmanager
async def gateway(folder: Path, away: Away) -> AsyncIterator[str]:
    """A gateway with its own spool, which a shipper follows; its address."""
    async with ScriptedUpstream(json_answer(COMPLETION)) as upstream:
        state = feed_state([route_document(urls=(upstream.url,))], [key_document(), key_document(FREE_KEY)])
        async with away.control.database.transaction() as session:
            for document in (await read_page(session, "", region="local")).documents:
                state.documents.setdefault(document.kind, {})[document.id] = document.body or {}
        save_state(folder / "feed.json", state)
        settings = GatewaySettings("gateway-0", "local", folder / "spool", folder / "feed.json", drain_seconds=1)
        spool = SpoolWriter(folder / "spool", "gateway-0", floor_bytes=0)
        made = Gateway(settings, spool, away.clock, spool.folder.name)
        shipper = Shipper(folder / "spool", away.send, sleep=away.sleep, jitter=lambda: 1.0)
        await made.start()
        tasks = [asyncio.create_task(made.desk.run(away.exchange)), asyncio.create_task(shipper.run())]
        try:
            yield f"http://127.0.0.1:{made.port}"
        finally:
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)
            await made.stop()


async def charged(control: Billing) -> list[UsageEvent]:
    async with control.database.transaction() as session:
        items = await control.report.read(session, UsageFilter(), before_id=None, limit=100_000)
    return [item.event for item in items]


async def test_an_hour_away_loses_nothing_doubles_nothing_and_spends_nothing_more(
    billing: Billing,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = Away(billing)
    monkeypatch.setattr(desk, "_now", lambda: microseconds(away.clock.now()))
    monkeypatch.setattr(desk, "WAIT_SECONDS", 0.2)
    budget_id = await prepare(billing)
    async with gateway(tmp_path, away) as url:
        for key in (KEY, FREE_KEY):
            assert (await ask(url, key, BODY)).status == 200
        away.is_away = True
        began_at, served, held, refused = away.clock.monotonic(), 2, 0, 0
        while away.clock.monotonic() < began_at + HOUR:
            assert (await ask(url, FREE_KEY, BODY)).status == 200  # what no budget holds goes on
            served += 1
            if refused < 3:
                answer = await ask(url, KEY, BODY)
                assert answer.status in (200, 429), answer
                served += answer.status == 200
                held += answer.status == 200
                refused += answer.status == 429
            away.turn.release()
            await asyncio.sleep(0)
        assert refused == 3
        assert 0 < held * CHARGE < BUDGET / 2  # it ended at what was granted
        assert away.failures > 100

        away.is_away = False
        away.turn.release()
        await until_async(_all_arrived(billing, served), "everything that was served has arrived")
        assert (await ask(url, KEY, BODY)).status == 200  # the rest of the budget is there again
        await until_async(_all_arrived(billing, served + 1), "and so does what comes after")
    events = await charged(billing)
    assert len({event.id for event in events}) == len(events)
    assert {event.outcome for event in events} == {"completed"}
    async with billing.database.transaction() as session:
        account = await billing.accounts.get(session, "org_1")
        budget = await billing.budgets.get(session, budget_id)
    assert account.balance == 10 - (served + 1) * CHARGE
    assert budget.spent == (held + 2) * CHARGE <= BUDGET
    assert (await billing.verification.verify(billing.database, None)).is_consistent


def _all_arrived(control: Billing, count: int) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def look() -> bool:
        return len(await charged(control)) == count

    return look
