"""What a request may cost at most, and of whom: as the feed tells it."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from cloudcrest.billing.api import RATE_CARD_KIND, RateCard, RateCardsDocument
from cloudcrest.billing.grants import Grant, GrantsAnswer
from cloudcrest.billing.periods import BUDGET_KIND, BudgetDocument, balance_document, microseconds
from cloudcrest.gateway.budget import SECOND, Wallet
from cloudcrest.gateway.claims import OVERHEAD_TOKENS, Claims
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.validate import parse
from cloudcrest.infra.feed import FeedState
from cloudcrest.kernel.errors import LimitExceeded
from cloudcrest.kernel.usage import Usage
from tests.support.gateway_cloud import key_document, route_document

NOON = microseconds(datetime(2026, 3, 31, 12, tzinfo=UTC))
DAY = 86_400 * SECOND
BALANCE = balance_document("org_1", "USD")


def card(number: int, price: str, **when: int) -> RateCard:
    begins = datetime(2026, 1, 1, tzinfo=UTC) if not when else datetime(2026, 4, 1, **when, tzinfo=UTC)
    return RateCard(f"rate_{number}", "m", "USD", begins, Decimal(price), Decimal(price), Decimal(price))


def claims(*budgets: BudgetDocument, cards: tuple[RateCard, ...] = (card(1, "1"),)) -> Claims:
    made = Claims(Wallet("gw"), 600 * SECOND)
    documents: dict[str, dict[str, dict[str, Any]]] = {
        BUDGET_KIND: {each.id: msgspec.to_builtins(each) for each in budgets},
        RATE_CARD_KIND: {"USD m": msgspec.to_builtins(RateCardsDocument("m", "USD", cards))} if cards else {},
    }
    made.update(FeedState("1", documents), {BUDGET_KIND, RATE_CARD_KIND})
    return made


def question(**fields: Any) -> Parsed:
    body = {"model": "m", "messages": [{"role": "user", "content": "Why?"}], **fields}
    return parse("/v1/chat/completions", msgspec.json.encode(body))


def scopes(made: Claims, now: int, **key: str) -> list[str]:
    claim = made.of(key_document(**key), question(), route_document(), now)
    return [] if claim is None else [pocket.scope for pocket in claim.pockets]


def test_nobody_is_held_by_what_the_feed_does_not_tell() -> None:
    assert claims().of(key_document(), question(), route_document(), NOON) is None
    assert scopes(claims(balance_document("org_9", "USD")), NOON) == []


def test_a_request_falls_under_what_covers_its_key_in_its_period() -> None:
    made = claims(
        BALANCE,
        BudgetDocument("bud_d", "org_1", "USD", "day"),
        BudgetDocument("bud_m", "org_1", "USD", "month", project_id="proj_1"),
        BudgetDocument("bud_k", "org_1", "USD", "total", project_id="proj_1", key_id="key_other"),
    )
    assert scopes(made, NOON) == ["bal_org_1", "bud_d@2026-03-31", "bud_m@2026-03"]
    assert scopes(made, NOON + DAY) == ["bal_org_1", "bud_d@2026-04-01", "bud_m@2026-04"]
    assert scopes(made, NOON, project_id="proj_3") == ["bal_org_1", "bud_d@2026-03-31"]


def test_the_card_in_force_when_it_begins_is_named() -> None:
    made = claims(BALANCE, cards=(card(1, "1"), card(2, "3", hour=0)))
    before = made.of(key_document(), question(), route_document(), NOON)
    after = made.of(key_document(), question(), route_document(), NOON + DAY)
    assert before is not None
    assert after is not None
    assert (before.rate_card_id, after.rate_card_id) == ("rate_1", "rate_2")
    assert after.most == 3 * before.most


def test_input_is_bounded_by_bytes_and_context_and_output_by_its_limit_and_choices() -> None:
    made, parsed = claims(BALANCE), question(max_tokens=10, n=3)
    claim = made.of(key_document(), parsed, route_document(), NOON)
    assert claim is not None
    assert (claim.input_tokens, claim.output_tokens) == (parsed.size_bytes + OVERHEAD_TOKENS, 30)
    assert claim.most == claim.least == (claim.input_tokens + 30) * 10**12
    small = made.of(key_document(), question(), route_document(context_tokens=50), NOON)
    assert small is not None
    assert (small.input_tokens, small.output_tokens, small.is_open) == (50, 50, True)


def test_the_dearest_that_may_happen_to_the_input_is_reserved_at_the_prices_of_the_tier() -> None:
    dear = msgspec.structs.replace(card(1, "1"), cache_write_price_per_million_tokens=Decimal("1.25"))
    made, parsed = claims(BALANCE, cards=(dear,)), question(max_tokens=10)
    for tier, write, output in (("standard", 1_250_000, 1_000_000), ("batch", 625_000, 500_000)):
        claim = made.of(key_document(), parsed, route_document(), NOON, tier)  # type: ignore[arg-type]
        assert claim is not None
        assert claim.most == (claim.input_tokens * write + 10 * output) * 10**6
        tokens = claim.input_tokens
        assert claim.charge(Usage(tokens, 10, cache_write_tokens=tokens)) == claim.most
        counted = claim.within(Usage(tokens + 1, 10, tokens - 3, cache_write_tokens=50))
        assert counted == Usage(tokens, 10, tokens - 3, cache_write_tokens=3)


def test_a_budget_refuses_a_model_without_a_price_and_a_balance_holds_it_to_anything_left() -> None:
    budget = BudgetDocument("bud_d", "org_1", "USD", "day")
    with pytest.raises(LimitExceeded, match="no price in USD"):
        claims(BALANCE, budget, cards=()).of(key_document(), question(), route_document(), NOON)
    claim = claims(BALANCE, cards=()).of(key_document(), question(), route_document(), NOON)
    assert claim is not None
    assert (claim.most, claim.holds(), claim.charge(Usage(9, 9))) == (1, (), 0)


def test_no_more_is_counted_than_was_reserved_and_what_is_over_is_free_again() -> None:
    wallet = Wallet("gw")
    made = Claims(wallet, 600 * SECOND)
    documents = {
        BUDGET_KIND: {BALANCE.id: msgspec.to_builtins(BALANCE)},
        RATE_CARD_KIND: {"USD m": msgspec.to_builtins(RateCardsDocument("m", "USD", (card(1, "1"),)))},
    }
    made.update(FeedState("1", documents), {BUDGET_KIND, RATE_CARD_KIND})
    claim = made.of(key_document(), question(max_tokens=10), route_document(), NOON)
    assert claim is not None
    assert not wallet.reserve(claim)
    wallet.ask_for([claim], NOON)
    request = wallet.message(NOON)
    assert request is not None
    (ask,) = request.asks
    grant = Grant(ask.grant_id, ask.scope, "gw", ask.needed, ask.ends_at_microseconds)
    wallet.heard(request, GrantsAnswer((grant,)), NOON)
    assert wallet.reserve(claim)

    counted = claim.within(Usage(10**6, 10**6, 10**5, 10**5))
    claim.settle(claim.charge(counted))

    assert (counted.input_tokens, counted.output_tokens) == (claim.input_tokens, 10)
    assert claim.pockets[0].free_units(NOON) == 0
    again = made.of(key_document(), question(max_tokens=10), route_document(), NOON)
    assert again is not None
    assert not wallet.reserve(again)
