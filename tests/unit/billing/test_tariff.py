"""Whole units are the same money as decimals, to the last one."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.billing.api import RateCard
from cloudcrest.billing.pricing import price_usage
from cloudcrest.billing.tariff import (
    affordable_output_tokens,
    beside_units,
    charge_units,
    most_units,
    tariff_of,
    to_units,
)
from cloudcrest.kernel.usage import Tier, Usage

UNITS = st.integers(0, 10**15) | st.integers(0, 10**6).map(lambda number: number * 10**9)  # most have few decimals
PRICES = UNITS.map(lambda units: Decimal(units).scaleb(-12))
TOKENS = st.integers(0, 10**9)
CARDS = st.builds(
    RateCard, st.just("rate_a"), st.just("m"), st.just("USD"), st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    PRICES, PRICES, PRICES, *[st.none() | PRICES] * 7,
)  # fmt: skip
USAGES = st.builds(
    Usage, TOKENS, TOKENS, TOKENS, st.just(0), st.just(False), TOKENS, TOKENS, TOKENS, st.integers(0, 10)
)


@given(USAGES, CARDS, st.sampled_from(get_args(Tier)))
def test_units_are_what_is_booked(usage: Usage, card: RateCard, tier: Tier) -> None:
    tariff = tariff_of(card, tier)

    units = charge_units(usage, tariff)

    assert units == to_units(price_usage(usage, card, tier).amount)
    beside = beside_units(usage.characters, usage.audio_milliseconds, usage.images, tariff)
    assert units <= most_units(usage.input_tokens, usage.output_tokens, tariff) + beside


@pytest.mark.parametrize(("price", "step"), [("0.5", 10**9), ("0.000001", 10**6), ("0.000000000003", 1), ("0", 10**9)])
def test_prices_are_multiples_of_the_largest_step_there_is(price: str, step: int) -> None:
    card = RateCard("rate_a", "m", "USD", datetime(2026, 1, 1, tzinfo=UTC), Decimal(price), Decimal(0), Decimal(0))
    assert tariff_of(card).step == step


@given(st.integers(0, 10**24), TOKENS, CARDS)
def test_what_is_affordable_is_paid_for_and_one_more_is_not(units: int, input_tokens: int, card: RateCard) -> None:
    tariff = tariff_of(card)

    output_tokens = affordable_output_tokens(units, input_tokens, tariff)

    if output_tokens is None:
        assert tariff.output == 0
        return
    if output_tokens:
        assert most_units(input_tokens, output_tokens, tariff) <= units
    assert most_units(input_tokens, output_tokens + 1, tariff) > units
