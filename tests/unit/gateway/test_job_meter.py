"""The meter of jobs: exact in seconds, the same after a crash, and never past a budget."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.billing.api import RATE_CARD_KIND, RateCard, RateCardsDocument
from cloudcrest.billing.grants import Book, GrantsRequest, exchange
from cloudcrest.billing.periods import BUDGET_KIND, balance_document
from cloudcrest.billing.pricing import price_usage
from cloudcrest.billing.tariff import to_units
from cloudcrest.compute.jobs.api import MeteredMember
from cloudcrest.gateway.fakes import MemorySpool
from cloudcrest.gateway.job_meter import JobMeter
from cloudcrest.infra.feed import FeedState
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.kernel.errors import LimitExceeded, SetupError, Unavailable
from cloudcrest.kernel.usage import UsageEvent

pytestmark = pytest.mark.anyio
START = 1_790_000_000.25
CARD = RateCard(
    "rate_1", "compute/h100", "USD", datetime(2026, 1, 1, tzinfo=UTC), Decimal(0), Decimal(0), Decimal(0),
    price_per_accelerator_second=Decimal("0.001"), price_per_cpu_second=Decimal("0.00001"),
)  # fmt: skip
MINUTE = Decimal("0.1260")
"""Of the member below: two accelerators and ten processors."""


def member(name: str = "job_1-1-0", *, grace: float = 10.0, is_spot: bool = False) -> MeteredMember:
    return MeteredMember(
        name, "job_1", "org_1", "proj_1", "h100", accelerators=2, cpu_milli=10_000, is_spot=is_spot, grace_seconds=grace
    )


class Budget:
    """A control plane with one balance, to which events come as they are written."""

    def __init__(self, amount: Decimal | None) -> None:
        scope = "bal_org_1"
        self.books = {scope: Book(scope, to_units(amount or Decimal(0)))}
        self.is_held = amount is not None
        self.is_away = False
        self.events: dict[str, UsageEvent] = {}

    def state(self, *cards: RateCard) -> FeedState:
        budgets = {"b": msgspec.to_builtins(balance_document("org_1", "USD"))} if self.is_held else {}
        prices = {each.model: msgspec.to_builtins(RateCardsDocument(each.model, "USD", (each,))) for each in cards}
        return FeedState("1", {BUDGET_KIND: budgets, RATE_CARD_KIND: prices})

    async def exchange(self, body: bytes) -> bytes:
        if self.is_away:
            raise Unavailable("away")
        request = msgspec.json.decode(body, type=GrantsRequest)
        now = round(SystemClock().unix_seconds() * 1_000_000)
        return msgspec.json.encode(exchange(self.books, request, now))

    def ingest(self, spool: MemorySpool) -> None:
        for event in spool.ended:
            before = self.events.setdefault(event.id, event)
            assert before.usage == event.usage  # the same id is the same charge
            if before is event and self.is_held:
                (scope,) = self.books
                self.books[scope].charge(to_units(price_usage(event.usage, CARD).amount), list(event.grants))

    @property
    def spent(self) -> Decimal:
        return sum((price_usage(event.usage, CARD).amount for event in self.events.values()), Decimal(0))


@asynccontextmanager
async def metering(
    budget: Budget, journal: Path, *, holder: str = "jobs-1", cards: tuple[RateCard, ...] = (CARD,)
) -> AsyncIterator[tuple[JobMeter, MemorySpool]]:
    """One life of a region's meter."""
    spool = MemorySpool()
    meter = JobMeter(region="local", spool=spool, holder=holder, journal=journal, clock=SystemClock())
    meter.update(budget.state(*cards), {BUDGET_KIND, RATE_CARD_KIND})
    running = asyncio.create_task(meter.run(budget.exchange))
    try:
        yield meter, spool
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        budget.ingest(spool)


async def test_a_job_is_charged_from_its_real_start_to_its_real_end(tmp_path: Path) -> None:
    budget = Budget(Decimal(10))
    async with metering(budget, tmp_path / "journal") as (meter, spool):
        await meter.open(member())
        for until in (20, 70, 130):
            await meter.mark(member(), START, START + until)
        await meter.close(member(), START, START + 150.5)
    assert [event.duration_milliseconds for event in spool.ended] == [60_000, 60_000, 30_500]
    assert sum(event.usage.accelerator_milliseconds for event in spool.ended) == 2 * 150_500
    assert sum(event.usage.cpu_milliseconds for event in spool.ended) == 10 * 150_500
    assert budget.spent == MINUTE * Decimal("150.5") / 60
    assert spool.ended[0].started_at_microseconds == round(START * 1e6)
    assert {event.model for event in spool.ended} == {"compute/h100"}
    assert all(event.grants and event.rate_card_id == "rate_1" for event in spool.ended)


async def test_what_never_began_costs_nothing_and_gives_back_what_was_held(tmp_path: Path) -> None:
    budget = Budget(MINUTE)
    async with metering(budget, tmp_path / "journal") as (meter, _):
        await meter.open(member())
        await meter.close(member(), None, None)
        await meter.open(member("job_2-1-0"))
        with pytest.raises(LimitExceeded):
            await meter.open(member("job_3-1-0"))
    assert budget.spent == 0


async def test_a_job_is_stopped_in_time_where_the_next_minute_is_not_paid_for(tmp_path: Path) -> None:
    budget = Budget(2 * MINUTE)
    async with metering(budget, tmp_path / "journal") as (meter, spool):
        await meter.open(member(grace=10))
        await meter.mark(member(grace=10), START, START + 60)
        await meter.mark(member(grace=10), START, START + 100)  # not yet
        with pytest.raises(LimitExceeded, match="does not pay for another minute"):
            await meter.mark(member(grace=10), START, START + 106)
        await meter.close(member(grace=10), START, START + 125)  # it took longer than it was given
    assert sum(event.usage.accelerator_milliseconds for event in spool.ended) == 2 * 120_000
    assert budget.spent == 2 * MINUTE


async def test_without_a_budget_nothing_holds_it(tmp_path: Path) -> None:
    budget = Budget(None)
    async with metering(budget, tmp_path / "journal") as (meter, spool):
        await meter.open(member())
        await meter.close(member(), START, START + 61)
    assert [event.usage.accelerator_milliseconds for event in spool.ended] == [120_000, 2_000]


async def test_what_cannot_be_written_is_written_at_the_next_call(tmp_path: Path) -> None:
    budget = Budget(None)
    async with metering(budget, tmp_path / "journal") as (meter, spool):
        await meter.open(member())
        spool.fault = Unavailable("the disk is full")
        with pytest.raises(Unavailable):
            await meter.mark(member(), START, START + 130)
        spool.fault = None
        await meter.close(member(), START, START + 130)
    assert [event.duration_milliseconds for event in spool.ended] == [60_000, 60_000, 10_000]


async def test_spot_has_a_price_of_its_own_where_there_is_one(tmp_path: Path) -> None:
    spot = msgspec.structs.replace(CARD, id="rate_2", model="compute/h100/spot")
    for cards, model in (((CARD,), "compute/h100"), ((CARD, spot), "compute/h100/spot")):
        async with metering(Budget(None), tmp_path / "journal", cards=cards) as (meter, spool):
            await meter.open(member(is_spot=True))
            await meter.close(member(is_spot=True), START, START + 1)
        assert [event.model for event in spool.ended] == [model]


async def test_where_nobody_knows_the_end_it_is_charged_until_it_was_last_seen(tmp_path: Path) -> None:
    async with metering(Budget(None), tmp_path / "journal") as (meter, spool):
        await meter.mark(member(), START, START + 42)
        await meter.close(member(), START, None)
    assert [event.duration_milliseconds for event in spool.ended] == [42_000]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 150), st.booleans()), min_size=1, max_size=5), st.booleans(), st.booleans())
async def test_after_any_crash_each_second_counts_once(
    steps: list[tuple[int, bool]], keeps_journal: bool, is_held: bool
) -> None:
    budget = Budget(Decimal(1000) if is_held else None)
    ran = life = 0
    with TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        is_open = False
        while steps:
            life += 1
            async with metering(budget, journal, holder=f"jobs-{life}") as (meter, _):
                if not is_open:
                    await meter.open(member())
                    is_open = True
                while steps:
                    seconds, is_killed = steps.pop(0)
                    ran += seconds
                    await meter.mark(member(), START, START + ran)
                    if is_killed:
                        break
                if not steps:
                    await meter.close(member(), START, START + ran + 0.5)
            for book in budget.books.values():
                book.drain(f"jobs-{life}")
            if not keeps_journal:
                journal.unlink(missing_ok=True)
    assert sum(event.usage.accelerator_milliseconds for event in budget.events.values()) == 2 * (1000 * ran + 500)


async def test_a_journal_on_a_full_disk_changes_nothing_of_what_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SetupError("the disk is full")

    monkeypatch.setattr("cloudcrest.gateway.job_meter.write_atomic", full)
    budget = Budget(Decimal(10))
    async with metering(budget, tmp_path / "journal") as (meter, spool):
        await meter.open(member())
        await meter.mark(member(), START, START + 70)
        await meter.close(member(), START, START + 150.5)
    assert [event.duration_milliseconds for event in spool.ended] == [60_000, 60_000, 30_500]
