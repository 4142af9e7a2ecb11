"""Usage becomes money once, the books cannot be changed, and a replay finds what was."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from cloudcrest.billing import repository
from cloudcrest.billing.service.rate_cards import Prices
from cloudcrest.kernel.errors import Conflict, InvalidInput, PermissionDenied
from cloudcrest.kernel.money import Money, plain
from cloudcrest.kernel.usage import Usage, UsageEvent
from cloudcrest.metering.api import UsageBatch, UsageFilter
from tests.integration.billing.conftest import Billing
from tests.unit.metering.events import usage_event

pytestmark = pytest.mark.anyio
CHARGE = Decimal("0.00000147")  # 30 × 0.02 + 7 × 0.01 + 20 × 0.04 per million


async def ingest(billing: Billing, *events: UsageEvent) -> tuple[int, int]:
    async with billing.database.transaction() as session:
        receipt = await billing.ingest.ingest(session, "local", UsageBatch(events))
    return receipt.accepted, receipt.duplicates


async def balance(billing: Billing, organization_id: str = "org_a") -> Decimal:
    async with billing.database.transaction() as session:
        return (await billing.accounts.get(session, organization_id)).balance


async def credit(billing: Billing, amount: str, reference: str | None = None) -> str:
    async with billing.database.transaction() as session:
        entry = await billing.accounts.credit(
            session,
            "org_a",
            "credit",
            Money(Decimal(amount), "USD"),
            note="paid",
            reference=reference,
            created_by="user_o",
        )
    return entry.id


async def test_an_event_is_charged_once_with_lines_that_explain_it(billing: Billing) -> None:
    await billing.open_account("org_a")
    assert await ingest(billing, usage_event(1), usage_event(2), usage_event(1)) == (2, 1)
    assert await ingest(billing, usage_event(2), usage_event(1)) == (0, 2)
    assert await balance(billing) == 10 - 2 * CHARGE
    async with billing.database.transaction() as session:
        items = await billing.report.read(session, UsageFilter(), before_id=None, limit=10)
    assert [item.event for item in items] == [usage_event(2), usage_event(1)]
    entry = items[0].entry
    assert entry is not None
    assert entry.amount == -CHARGE
    assert sum((line.amount for line in entry.lines), Decimal(0)) == CHARGE
    report = await billing.verification.verify(billing.database, None)
    assert report.is_consistent
    assert (report.events_replayed, report.entries_checked, report.accounts_checked) == (2, 3, 1)
    assert report.charged == {"USD": 2 * CHARGE}


async def test_the_same_batch_from_several_at_once_is_charged_once(billing: Billing) -> None:
    for name in ("org_a", "org_b"):
        await billing.open_account(name)
    events = [usage_event(number, organization_id="org_ab"[:4] + "ab"[number % 2]) for number in range(200)]
    backwards = list(reversed(events))
    receipts = await asyncio.gather(*(ingest(billing, *batch) for batch in (events, backwards, events, backwards[50:])))
    assert sum(accepted for accepted, _ in receipts) == 200
    assert await balance(billing, "org_a") == await balance(billing, "org_b") == 10 - 100 * CHARGE
    assert (await billing.verification.verify(billing.database, None)).is_consistent


async def test_another_regions_event_is_refused_whole(billing: Billing) -> None:
    await billing.open_account("org_a")
    with pytest.raises(PermissionDenied, match="foreign") as caught:
        await ingest(billing, usage_event(1), usage_event(2, region="foreign"))
    assert caught.value.code == "foreign_region"
    assert await balance(billing) == 10


@pytest.mark.parametrize(
    "bad",
    [
        usage_event(2, model="m" * 300),
        usage_event(2, model="nul\0"),
        usage_event(2, usage=Usage(-1, 0)),
        usage_event(2, usage=Usage(2**62, 0)),
        usage_event(2, started_at_microseconds=-(10**18)),
    ],
)
async def test_an_event_that_cannot_be_kept_is_refused(billing: Billing, bad: UsageEvent) -> None:
    with pytest.raises(InvalidInput):
        await ingest(billing, usage_event(1), bad)


async def test_unknown_organizations_and_models_wait_and_hold_nothing_up(billing: Billing) -> None:
    await billing.open_account("org_a")
    strangers = [usage_event(2, organization_id="org_new"), usage_event(3, model="new-model")]
    assert await ingest(billing, usage_event(1), *strangers) == (3, 0)
    async with billing.database.transaction() as session:
        waiting = await billing.report.unpriced(session, UsageFilter(), before_id=None, limit=10)
    assert [(item.event_id[-1], item.reason) for item in waiting] == [
        ("3", "no_rate_card"),
        ("2", "unknown_organization"),
    ]
    report = await billing.verification.verify(billing.database, None)
    assert (report.is_consistent, report.events_waiting) == (True, 2)
    assert await billing.ingest.price_waiting(billing.database) == 0

    await billing.open_account("org_new")
    assert await billing.ingest.price_waiting(billing.database) == 1
    async with billing.database.transaction() as session:
        prices = Prices(Decimal(1), Decimal(1), Decimal(1))
        await billing.cards.create(
            session, "new-model", "USD", prices, valid_from=billing.clock.now() - timedelta(days=1), created_by="user_o"
        )
    assert billing.deferred == ["price_waiting"]
    both = await asyncio.gather(*(billing.ingest.price_waiting(billing.database) for _ in range(3)))
    assert sum(both) == 1
    assert await balance(billing) == 10 - CHARGE - Decimal("0.000057")
    report = await billing.verification.verify(billing.database, None)
    assert (report.is_consistent, report.events_waiting) == (True, 0)


async def test_a_batch_and_every_unit_are_booked_line_by_line_and_replay_the_same(billing: Billing) -> None:
    await billing.open_account("org_a")
    usage = Usage(100, 9, 60, 4, cache_write_tokens=30, characters=40, audio_milliseconds=12_345, images=2)
    plainly = usage_event(1, model="new-model", usage=usage)
    batch = msgspec.structs.replace(usage_event(2, model="new-model", usage=usage), tier="batch")
    await ingest(billing, plainly, batch)
    prices = Prices(
        Decimal(1),
        Decimal("0.1"),
        Decimal(2),
        cache_write=Decimal("1.25"),
        batch_input=Decimal("0.4"),
        batch_output=Decimal("0.8"),
        characters=Decimal(15),
        audio=Decimal("0.000000000001"),
        image=Decimal("0.02"),
    )
    async with billing.database.transaction() as session:
        early = billing.clock.now() - timedelta(days=1)
        await billing.cards.create(session, "new-model", "USD", prices, valid_from=early, created_by="user_o")
    assert await billing.ingest.price_waiting(billing.database) == 2
    async with billing.database.transaction() as session:
        in_batch, at_once = await billing.report.read(session, UsageFilter(), before_id=None, limit=10)
        (group,) = await billing.report.summary(session, UsageFilter(), group_by="day_model")
    assert (at_once.event, in_batch.event) == (plainly, batch)
    assert at_once.entry is not None
    assert in_batch.entry is not None
    others = [("characters", "0.0006"), ("audio", "0.000000000012345"), ("images", "0.04")]
    assert [(line.kind, plain(line.amount)) for line in at_once.entry.lines] == [
        *(("input", "0.00001"), ("cached_input", "0.000006"), ("cache_write", "0.0000375"), ("output", "0.000018")),
        *others,
    ]
    assert [(line.kind, plain(line.amount)) for line in in_batch.entry.lines] == [
        *(("batch_input", "0.000004"), ("batch_cached_input", "0.000003"), ("batch_cache_write", "0.00001875")),
        *(("batch_output", "0.0000072"), *others),
    ]
    assert await balance(billing) == 10 + at_once.entry.amount + in_batch.entry.amount
    assert group.usage.key == "2026-01-01 new-model"
    assert (group.usage.cached_input_tokens, group.usage.cache_write_tokens) == (120, 60)
    assert (group.usage.characters, group.usage.audio_milliseconds, group.usage.images) == (80, 24_690, 4)
    report = await billing.verification.verify(billing.database, None)
    assert (report.is_consistent, report.events_waiting) == (True, 0)


async def test_what_waits_says_what_it_waits_for_now(billing: Billing) -> None:
    await ingest(billing, usage_event(1, organization_id="org_new", model="new-model"))
    await billing.open_account("org_new")
    assert await billing.ingest.price_waiting(billing.database) == 0
    async with billing.database.transaction() as session:
        (waiting,) = await billing.report.unpriced(session, UsageFilter(), before_id=None, limit=10)
        assert waiting.reason == "no_rate_card"
        assert await repository.lock_unpriced(session, "", 10) == []


async def test_an_account_is_charged_by_the_cards_of_its_own_currency(billing: Billing) -> None:
    await billing.open_account("org_a", "CNY")
    await ingest(billing, usage_event(1))
    async with billing.database.transaction() as session:
        prices = Prices(Decimal("0.14"), Decimal("0.07"), Decimal("0.28"))
        early = billing.clock.now() - timedelta(days=1)
        await billing.cards.create(
            session, "smollm2-135m-instruct", "CNY", prices, valid_from=early, created_by="user_o"
        )
    assert await billing.ingest.price_waiting(billing.database) == 1
    assert await balance(billing) == 10 - 7 * CHARGE


async def test_a_new_card_holds_from_its_moment_and_never_reaches_back(billing: Billing) -> None:
    await billing.open_account("org_a")
    await ingest(billing, usage_event(1))
    model, prices = "smollm2-135m-instruct", Prices(Decimal(1), Decimal(1), Decimal(1))
    start = billing.clock.now()
    async with billing.database.transaction() as session:
        with pytest.raises(Conflict, match="priced already"):
            await billing.cards.create(session, model, "USD", prices, valid_from=start, created_by="user_o")
    billing.clock.advance(60)
    async with billing.database.transaction() as session:
        card = await billing.cards.create(session, model, "USD", prices, valid_from=None, created_by="user_o")
        with pytest.raises(Conflict, match="there is a rate card"):
            await billing.cards.create(session, model, "USD", prices, valid_from=card.valid_from, created_by="user_o")
        with pytest.raises(Conflict, match="in force"):
            await billing.cards.withdraw(session, card.id)
    await ingest(billing, usage_event(2), usage_event(60_000_003))
    assert await balance(billing) == 10 - 2 * CHARGE - Decimal("0.000057")
    assert (await billing.verification.verify(billing.database, None)).is_consistent


async def test_a_credit_counts_once_by_its_reference(billing: Billing) -> None:
    await billing.open_account("org_a")
    await ingest(billing, usage_event(1, usage=Usage(500_000_000, 0)))
    assert await balance(billing) == 0
    await ingest(billing, usage_event(2))
    first = await credit(billing, "5", "invoice-1")
    assert await credit(billing, "5", "invoice-1") == first
    assert await balance(billing) == 5 - CHARGE
    with pytest.raises(Conflict):
        await credit(billing, "6", "invoice-1")
    with pytest.raises(InvalidInput):
        await credit(billing, "-1")


async def test_amounts_beyond_a_decimal_context_stay_exact(billing: Billing) -> None:
    await billing.open_account("org_a")
    await credit(billing, "12345678901234567890.000000000000000001")
    await ingest(billing, usage_event(1))
    assert plain(await balance(billing)) == "12345678901234567899.999998530000000001"
    assert (await billing.verification.verify(billing.database, None)).is_consistent


@pytest.mark.parametrize("table", ["ledger_entries", "usage_events"])
@pytest.mark.parametrize("change", ["update {} set model = 'x'", "delete from {}", "truncate {} cascade"])
@pytest.mark.parametrize("role", ["origin", "replica"])
async def test_the_books_refuse_every_change(billing: Billing, table: str, change: str, role: str) -> None:
    await billing.open_account("org_a")
    await ingest(billing, usage_event(1))
    with pytest.raises(IntegrityError, match="append-only"):
        await change_as(billing, role, change.format(table))


async def change_as(billing: Billing, role: str, statement: str) -> None:
    """Runs a statement in a session that replays (`replica`) or does not (`origin`)."""
    async with billing.database.transaction() as session:
        await session.execute(text(f"set local session_replication_role = {role}"))
        await session.execute(text(statement))


@pytest.mark.parametrize(
    "change", ["update rate_cards set model = 'x'", "delete from rate_cards", "truncate rate_cards cascade"]
)
async def test_rate_cards_in_force_refuse_every_change(billing: Billing, change: str) -> None:
    with pytest.raises(IntegrityError, match=r"in force|append-only"):
        async with billing.database.transaction() as session:
            await session.execute(text(change))


@pytest.mark.parametrize(
    ("forgery", "kind", "field"),
    [
        ("update ledger_entries set amount = amount + 1e-18 where kind = 'usage'", "wrong_entry", "amount"),
        ("update ledger_entries set lines = '[]' where kind = 'usage'", "wrong_entry", "lines"),
        ("update ledger_entries set organization_id = 'org_b' where kind = 'usage'", "wrong_entry", "organization_id"),
        ("delete from ledger_entries where kind = 'usage'", "missing_entry", "amount"),
        ("delete from usage_events", "entry_without_event", "event_id"),
        ("update usage_events set output_tokens = 21", "wrong_entry", "amount"),
        ("update accounts set balance = balance + 1e-18 where organization_id = 'org_a'", "wrong_balance", "balance"),
    ],
)
async def test_a_replay_finds_what_was_forged(billing: Billing, forgery: str, kind: str, field: str) -> None:
    await billing.open_account("org_a")
    await billing.open_account("org_b")
    await ingest(billing, usage_event(1))
    async with billing.database.transaction() as session:
        await session.execute(text("set local session_replication_role = replica"))  # no foreign keys
        for table in ("ledger_entries", "usage_events"):
            await session.execute(text(f"alter table {table} disable trigger append_only"))  # their owner can
        await session.execute(text(forgery))
    report = await billing.verification.verify(billing.database, None)
    assert (kind, field) in {(found.kind, found.field) for found in report.differences}
    assert report.differences_total == len(report.differences) > 0


async def test_a_replay_reads_in_pages_and_of_one_organization(
    billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudcrest.billing.service.verification.PAGE_ITEMS", 7)
    for name in ("org_a", "org_b"):
        await billing.open_account(name)
    await ingest(billing, *(usage_event(number, organization_id=f"org_{'aab'[number % 3]}") for number in range(30)))
    report = await billing.verification.verify(billing.database, "org_b")
    assert (report.events_replayed, report.entries_checked, report.accounts_checked) == (10, 11, 1)
    assert report.is_consistent
    assert (await billing.verification.verify(billing.database, None)).events_replayed == 30


async def test_summaries_add_up(billing: Billing) -> None:
    await billing.open_account("org_a")
    await ingest(billing, usage_event(1), usage_event(2, key_id="key_b"), usage_event(3, model="new-model"))
    async with billing.database.transaction() as session:
        for group_by, keys in {
            "model": ["new-model", "smollm2-135m-instruct"],
            "day": ["2026-01-01"],
            "day_model": ["2026-01-01 new-model", "2026-01-01 smollm2-135m-instruct"],
            "project": ["proj_a"],
            "key": ["key_a", "key_b"],
        }.items():
            groups = await billing.report.summary(session, UsageFilter(), group_by=group_by)  # type: ignore[arg-type]
            assert [group.usage.key for group in groups] == keys
            assert sum(group.usage.requests for group in groups) == 3
            assert sum(group.unpriced_requests for group in groups) == 1
            assert sum((money.amount for group in groups for money in group.charges), Decimal(0)) == 2 * CHARGE
        assert await repository.charges(session, UsageFilter(organization_id="org_b"), group_by="model") == {}
