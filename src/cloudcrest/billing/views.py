"""Usage and money as the routes show them."""

from decimal import Decimal
from typing import Literal

from cloudcrest.billing.api import (
    Account,
    BudgetState,
    LedgerEntry,
    LineKind,
    PricedLine,
    RateCard,
    UnpricedUsage,
    VerifyReport,
)
from cloudcrest.billing.schemas import (
    AmountView,
    BalanceView,
    BudgetView,
    ChargeView,
    DifferenceView,
    EntryView,
    LineView,
    RateCardView,
    TokensView,
    UnpricedView,
    UsageGroupView,
    UsageView,
    VerifyView,
)
from cloudcrest.billing.service.ingest import started_at
from cloudcrest.billing.service.usage import ChargedGroup, ChargedUsage
from cloudcrest.identity.api import SYSTEM_ORGANIZATION_ID
from cloudcrest.kernel.money import Money, plain
from cloudcrest.metering.api import GroupBy

Unit = Literal["million_tokens", "million_characters", "second", "image"]
_UNITS: dict[LineKind, Unit] = {
    "characters": "million_characters",
    "audio": "second",
    "images": "image",
    "accelerators": "second",
    "cpu": "second",
}


def _lines(lines: tuple[PricedLine, ...]) -> list[LineView]:
    return [
        LineView(
            kind=line.kind,
            quantity=line.quantity,
            unit=_UNITS.get(line.kind, "million_tokens"),
            price=plain(line.price),
            amount=plain(line.amount),
        )
        for line in lines
    ]


def view_usage(item: ChargedUsage) -> UsageView:
    """A request as it is shown."""
    event, entry = item.event, item.entry
    charge = None
    if entry is not None:
        charge = ChargeView(
            currency=entry.currency,
            amount=plain(entry.amount.copy_abs()),
            rate_card_id=entry.rate_card_id or "",
            ledger_entry_id=entry.id,
            lines=_lines(entry.lines),
        )
    return UsageView(
        id=event.id,
        started_at=started_at(event),
        duration_milliseconds=event.duration_milliseconds,
        first_token_milliseconds=event.first_token_milliseconds,
        organization_id=event.organization_id,
        project_id=event.project_id,
        key_id=event.key_id,
        model=event.model,
        region=event.region,
        deployment_id=event.deployment_id,
        endpoint=event.endpoint,
        is_stream=event.is_stream,
        outcome=event.outcome,
        usage=TokensView(
            input_tokens=event.usage.input_tokens,
            cached_input_tokens=event.usage.cached_input_tokens,
            output_tokens=event.usage.output_tokens,
            reasoning_tokens=event.usage.reasoning_tokens,
            is_estimate=event.usage.is_estimate,
            cache_write_tokens=event.usage.cache_write_tokens,
            characters=event.usage.characters,
            audio_milliseconds=event.usage.audio_milliseconds,
            images=event.usage.images,
            accelerator_milliseconds=event.usage.accelerator_milliseconds,
            cpu_milliseconds=event.usage.cpu_milliseconds,
        ),
        tier=event.tier,
        charge=charge,
        unpriced_reason=None if item.waiting is None else item.waiting.reason,
    )


def view_group(item: ChargedGroup, group_by: GroupBy) -> UsageGroupView:
    """A sum as it is shown."""
    charges = [AmountView(currency=money.currency, amount=plain(money.amount)) for money in item.charges]
    only = charges[0] if len(charges) == 1 else None
    day, model = item.usage.key, item.usage.key
    if group_by == "day_model":
        day, _, model = item.usage.key.partition(" ")
    return UsageGroupView(
        model=model if group_by in ("model", "day_model") else None,
        day=day if group_by in ("day", "day_model") else None,
        project_id=item.usage.key if group_by == "project" else None,
        key_id=item.usage.key if group_by == "key" else None,
        requests=item.usage.requests,
        input_tokens=item.usage.input_tokens,
        cached_input_tokens=item.usage.cached_input_tokens,
        output_tokens=item.usage.output_tokens,
        cache_write_tokens=item.usage.cache_write_tokens,
        cache_hit_rate=(
            round(item.usage.cached_input_tokens / item.usage.input_tokens, 4) if item.usage.input_tokens else None
        ),
        characters=item.usage.characters,
        audio_milliseconds=item.usage.audio_milliseconds,
        images=item.usage.images,
        accelerator_milliseconds=item.usage.accelerator_milliseconds,
        cpu_milliseconds=item.usage.cpu_milliseconds,
        unpriced_requests=item.unpriced_requests,
        charges=charges,
        amount=None if only is None else only.amount,
        currency=None if only is None else only.currency,
    )


def view_unpriced(item: UnpricedUsage) -> UnpricedView:
    """Waiting usage as it is shown."""
    return UnpricedView(
        id=item.event_id,
        organization_id=item.organization_id,
        project_id=item.project_id,
        model=item.model,
        reason=item.reason,
        received_at=item.created_at,
    )


def view_card(card: RateCard) -> RateCardView:
    """A rate card as it is shown."""
    return RateCardView(
        id=card.id,
        model=card.model,
        currency=card.currency,
        valid_from=card.valid_from,
        input_price_per_million_tokens=plain(card.input_price_per_million_tokens),
        cached_input_price_per_million_tokens=plain(card.cached_input_price_per_million_tokens),
        output_price_per_million_tokens=plain(card.output_price_per_million_tokens),
        cache_write_price_per_million_tokens=_plain_or_none(card.cache_write_price_per_million_tokens),
        batch_input_price_per_million_tokens=_plain_or_none(card.batch_input_price_per_million_tokens),
        batch_cached_input_price_per_million_tokens=_plain_or_none(card.batch_cached_input_price_per_million_tokens),
        batch_output_price_per_million_tokens=_plain_or_none(card.batch_output_price_per_million_tokens),
        price_per_million_characters=_plain_or_none(card.price_per_million_characters),
        price_per_audio_second=_plain_or_none(card.price_per_audio_second),
        price_per_image=_plain_or_none(card.price_per_image),
        price_per_accelerator_second=_plain_or_none(card.price_per_accelerator_second),
        price_per_cpu_second=_plain_or_none(card.price_per_cpu_second),
    )


def _plain_or_none(price: Decimal | None) -> str | None:
    return None if price is None else plain(price)


def view_entry(entry: LedgerEntry) -> EntryView:
    """A ledger entry as it is shown."""
    return EntryView(
        id=entry.id,
        organization_id=entry.organization_id,
        kind=entry.kind,
        amount=plain(entry.amount),
        currency=entry.currency,
        created_at=entry.created_at,
        usage_event_id=entry.event_id,
        rate_card_id=entry.rate_card_id,
        lines=_lines(entry.lines),
        project_id=entry.project_id,
        key_id=entry.key_id,
        model=entry.model,
        note=entry.note,
        reference=entry.reference,
    )


def view_balance(account: Account) -> BalanceView:
    """An account as it is shown."""
    return BalanceView(
        organization_id=account.organization_id,
        amount=plain(account.balance),
        currency=account.currency,
        is_suspended=account.balance <= 0 and account.organization_id != SYSTEM_ORGANIZATION_ID,
    )


def view_report(report: VerifyReport) -> VerifyView:
    """A replay's outcome as it is shown."""
    return VerifyView(
        ok=report.is_consistent,
        events_replayed=report.events_replayed,
        entries_checked=report.entries_checked,
        events_waiting=report.events_waiting,
        accounts_checked=report.accounts_checked,
        charged=[AmountView(currency=code, amount=plain(amount)) for code, amount in report.charged.items()],
        differences_total=report.differences_total,
        differences=[
            DifferenceView(
                kind=item.kind,
                subject=item.subject,
                organization_id=item.organization_id,
                field=item.field,
                expected=item.expected,
                found=item.found,
            )
            for item in report.differences
        ],
    )


def view_budget(state: BudgetState) -> BudgetView:
    """A budget as it is shown."""
    budget = state.budget
    remaining = Money(budget.amount, budget.currency) - Money(state.spent, budget.currency)
    return BudgetView(
        id=budget.id,
        organization_id=budget.organization_id,
        project_id=budget.project_id,
        key_id=budget.key_id,
        period=budget.period,
        currency=budget.currency,
        amount=plain(budget.amount),
        spent=plain(state.spent),
        reserved=plain(state.reserved),
        remaining=plain(remaining.amount),
        period_start=state.since,
        period_end=state.until,
        created_at=budget.created_at,
    )
