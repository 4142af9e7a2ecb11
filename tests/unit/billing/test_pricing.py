"""A charge is exact, is the sum of its lines, and never falls when more is used."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.billing.api import RateCard
from cloudcrest.billing.pricing import card_in_force, price_usage
from cloudcrest.kernel.money import AMOUNT_DECIMALS, plain
from cloudcrest.kernel.usage import Usage

START = datetime(2026, 1, 1, tzinfo=UTC)
PRICES = st.integers(0, 10**15).map(lambda units: Decimal(units).scaleb(-12))
TOKENS = st.integers(0, 10**9)


def rate_card(input_price: Decimal, cached_price: Decimal, output_price: Decimal, **changes: object) -> RateCard:
    values: dict[str, object] = {"id": "rate_a", "model": "m", "currency": "USD", "valid_from": START, **changes}
    return RateCard(
        **values,  # type: ignore[arg-type]
        input_price_per_million_tokens=input_price,
        cached_input_price_per_million_tokens=cached_price,
        output_price_per_million_tokens=output_price,
    )


CARDS = st.builds(rate_card, PRICES, PRICES, PRICES)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    tokens = draw(TOKENS)
    return Usage(tokens, draw(TOKENS), cached_input_tokens=draw(st.integers(0, tokens)))


@given(usages(), CARDS)
def test_a_charge_is_exact(usage: Usage, card: RateCard) -> None:
    charge = price_usage(usage, card)
    exact = (
        (usage.input_tokens - usage.cached_input_tokens) * Fraction(card.input_price_per_million_tokens)
        + usage.cached_input_tokens * Fraction(card.cached_input_price_per_million_tokens)
        + usage.output_tokens * Fraction(card.output_price_per_million_tokens)
    ) / 10**6
    assert Fraction(charge.amount) == exact
    assert Fraction(charge.amount) == sum((Fraction(line.amount) for line in charge.lines), Fraction(0))
    assert sum(line.tokens for line in charge.lines) == usage.input_tokens + usage.output_tokens
    assert len(plain(charge.amount).partition(".")[2]) <= AMOUNT_DECIMALS


@given(usages(), CARDS, TOKENS, TOKENS)
def test_more_usage_never_costs_less(usage: Usage, card: RateCard, more_input: int, more_output: int) -> None:
    more = Usage(usage.input_tokens + more_input, usage.output_tokens + more_output, usage.cached_input_tokens)
    assert price_usage(more, card).amount >= price_usage(usage, card).amount


@given(usages(), usages(), CARDS)
def test_usage_costs_the_same_together_and_apart(one: Usage, other: Usage, card: RateCard) -> None:
    both = Usage(
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        one.cached_input_tokens + other.cached_input_tokens,
    )
    apart = Fraction(price_usage(one, card).amount) + Fraction(price_usage(other, card).amount)
    assert Fraction(price_usage(both, card).amount) == apart


def test_cached_input_is_priced_apart() -> None:
    card = rate_card(Decimal("0.02"), Decimal("0.01"), Decimal("0.04"))
    charge = price_usage(Usage(37, 20, cached_input_tokens=7), card)
    assert [(line.kind, line.tokens, plain(line.amount)) for line in charge.lines] == [
        ("input", 30, "0.0000006"),
        ("cached_input", 7, "0.00000007"),
        ("output", 20, "0.0000008"),
    ]
    assert plain(charge.amount) == "0.00000147"


def test_no_more_cached_input_than_input_is_believed() -> None:
    card = rate_card(Decimal(2), Decimal(1), Decimal(4))
    assert price_usage(Usage(10, 0, cached_input_tokens=50), card).amount == Decimal("0.00001")


def test_the_card_in_force_is_the_latest_begun() -> None:
    cards = [
        rate_card(Decimal(1), Decimal(1), Decimal(1), id=f"rate_{day}", valid_from=START + timedelta(days=day))
        for day in (3, 1, 2)
    ]
    assert card_in_force(cards, START) is None
    in_force = card_in_force(cards, START + timedelta(days=2))
    assert in_force is not None
    assert in_force.id == "rate_2"
    before = card_in_force(cards, START + timedelta(days=2) - timedelta(microseconds=1))
    assert before is not None
    assert before.id == "rate_1"
