"""A charge is exact, is the sum of its lines, and never falls when more is used."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.billing.api import RateCard
from cloudcrest.billing.pricing import card_in_force, price_usage, prices_of
from cloudcrest.kernel.money import AMOUNT_DECIMALS, plain
from cloudcrest.kernel.usage import Tier, Usage

START = datetime(2026, 1, 1, tzinfo=UTC)
PRICES = st.integers(0, 10**15).map(lambda units: Decimal(units).scaleb(-12))
TOKENS = st.integers(0, 10**9)


def rate_card(input_price: Decimal, cached_price: Decimal, output_price: Decimal, **changes: Any) -> RateCard:
    card = RateCard("rate_a", "m", "USD", START, input_price, cached_price, output_price)
    return msgspec.structs.replace(card, **changes)


CARDS = st.builds(
    RateCard, st.just("rate_a"), st.just("m"), st.just("USD"), st.just(START), PRICES, PRICES, PRICES,
    *[st.none() | PRICES] * 7,
)  # fmt: skip


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    tokens = draw(TOKENS)
    cached = draw(st.integers(0, tokens))
    return Usage(
        tokens,
        draw(TOKENS),
        cached_input_tokens=cached,
        cache_write_tokens=draw(st.integers(0, tokens - cached)),
        characters=draw(st.just(0) | TOKENS),
        audio_milliseconds=draw(st.just(0) | TOKENS),
        images=draw(st.just(0) | st.integers(0, 10)),
    )


@given(usages(), CARDS, st.sampled_from(get_args(Tier)))
def test_a_charge_is_exact(usage: Usage, card: RateCard, tier: Tier) -> None:
    charge = price_usage(usage, card, tier)
    prices = prices_of(card, tier)
    plain_input = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    exact = (
        plain_input * Fraction(prices.input)
        + usage.cached_input_tokens * Fraction(prices.cached_input)
        + usage.cache_write_tokens * Fraction(prices.cache_write)
        + usage.output_tokens * Fraction(prices.output)
        + usage.characters * Fraction(prices.characters)
        + usage.audio_milliseconds * 1000 * Fraction(prices.audio)
        + usage.images * 10**6 * Fraction(prices.images)
    ) / 10**6
    assert Fraction(charge.amount) == exact
    assert Fraction(charge.amount) == sum((Fraction(line.amount) for line in charge.lines), Fraction(0))
    assert len(plain(charge.amount).partition(".")[2]) <= AMOUNT_DECIMALS


def test_a_batch_costs_half_where_its_card_says_nothing_else() -> None:
    card = rate_card(Decimal("0.5"), Decimal("0.05"), Decimal(2))
    charge = price_usage(Usage(1_000_000, 500_000, cached_input_tokens=200_000), card, "batch")
    assert [(line.kind, plain(line.price), plain(line.amount)) for line in charge.lines] == [
        ("batch_input", "0.25", "0.2"),
        ("batch_cached_input", "0.025", "0.005"),
        ("batch_output", "1", "0.5"),
    ]
    own = msgspec.structs.replace(card, batch_output_price_per_million_tokens=Decimal("0.8"))
    assert price_usage(Usage(0, 1_000_000), own, "batch").amount == Decimal("0.8")
    marked = msgspec.structs.replace(
        card, cache_write_price_per_million_tokens=Decimal("0.7"), batch_input_price_per_million_tokens=Decimal("0.3")
    )
    assert prices_of(marked, "batch").cache_write == Decimal("0.35")
    unmarked = msgspec.structs.replace(marked, cache_write_price_per_million_tokens=None)
    assert [prices_of(unmarked, tier).cache_write for tier in ("standard", "batch")] == [Decimal("0.5"), Decimal("0.3")]
    smallest = rate_card(Decimal("0.000000000003"), Decimal(0), Decimal(0))
    assert prices_of(smallest, "batch").input == Decimal("0.000000000001")


def test_each_kind_of_usage_has_its_line() -> None:
    card = rate_card(
        Decimal(1),
        Decimal("0.1"),
        Decimal(0),
        cache_write_price_per_million_tokens=Decimal("1.25"),
        price_per_million_characters=Decimal(15),
        price_per_audio_second=Decimal("0.0001"),
        price_per_image=Decimal("0.02"),
    )
    usage = Usage(
        100, 0, cached_input_tokens=60, cache_write_tokens=30, characters=40, audio_milliseconds=12_480, images=2
    )
    lines = price_usage(usage, card).lines
    assert [(line.kind, line.quantity, plain(line.amount)) for line in lines] == [
        ("input", 10, "0.00001"),
        ("cached_input", 60, "0.000006"),
        ("cache_write", 30, "0.0000375"),
        ("characters", 40, "0.0006"),
        ("audio", 12_480, "0.001248"),
        ("images", 2, "0.04"),
    ]


@given(usages(), CARDS, TOKENS, TOKENS)
def test_more_usage_never_costs_less(usage: Usage, card: RateCard, more_input: int, more_output: int) -> None:
    more = msgspec.structs.replace(
        usage, input_tokens=usage.input_tokens + more_input, output_tokens=usage.output_tokens + more_output
    )
    assert price_usage(more, card).amount >= price_usage(usage, card).amount


@given(usages(), usages(), CARDS)
def test_usage_costs_the_same_together_and_apart(one: Usage, other: Usage, card: RateCard) -> None:
    counts = [name for name in Usage.__struct_fields__ if name != "is_estimate"]
    both = Usage(**{name: getattr(one, name) + getattr(other, name) for name in counts})
    apart = Fraction(price_usage(one, card).amount) + Fraction(price_usage(other, card).amount)
    assert Fraction(price_usage(both, card).amount) == apart


def test_cached_input_is_priced_apart() -> None:
    card = rate_card(Decimal("0.02"), Decimal("0.01"), Decimal("0.04"))
    charge = price_usage(Usage(37, 20, cached_input_tokens=7), card)
    assert [(line.kind, line.quantity, plain(line.amount)) for line in charge.lines] == [
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


def test_the_example_in_the_docs() -> None:
    usage, card = Usage(10_000, 500, cached_input_tokens=9_000), rate_card(*map(Decimal, ("0.10", "0.02", "0.40")))
    charge, batch = price_usage(usage, card), price_usage(usage, card, "batch")
    said = (Path(__file__).parents[3] / "docs/how/prices.md").read_text()
    assert [plain(line.amount) for line in charge.lines] == ["0.0001", "0.00018", "0.0002"]
    for amount in (*[line.amount for line in charge.lines], charge.amount, batch.amount):
        assert plain(amount) in said
