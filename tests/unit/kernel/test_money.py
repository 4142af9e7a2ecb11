"""Money is exact."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.money import Money, charge_per, parse_amount, plain

amounts = st.decimals(min_value=Decimal(-(10**19)), max_value=Decimal(10**19), places=18)
prices = st.decimals(min_value=0, max_value=10**6, places=12)
counts = st.integers(min_value=0, max_value=10**12)


def usd(amount: Decimal) -> Money:
    return Money(amount, "USD")


@given(amounts, amounts, amounts)
def test_adding_is_associative_and_commutative(a: Decimal, b: Decimal, c: Decimal) -> None:
    assert (usd(a) + usd(b)) + usd(c) == usd(a) + (usd(b) + usd(c))
    assert usd(a) + usd(b) == usd(b) + usd(a)


@given(amounts, amounts)
def test_subtracting_undoes_adding(a: Decimal, b: Decimal) -> None:
    assert usd(a) + usd(b) - usd(b) == usd(a)
    assert usd(a) + -usd(a) == Money.zero("USD")


@given(prices, counts)
def test_a_charge_is_exact_and_has_at_most_18_decimals(price: Decimal, count: int) -> None:
    charge = charge_per(price, count, 6)
    assert Fraction(charge) == Fraction(price) * count / 10**6
    exponent = charge.as_tuple().exponent
    assert isinstance(exponent, int)
    assert exponent >= -18


@given(prices, counts, counts)
def test_charging_parts_is_charging_the_whole(price: Decimal, first: int, second: int) -> None:
    whole = usd(charge_per(price, first + second, 6))
    assert usd(charge_per(price, first, 6)) + usd(charge_per(price, second, 6)) == whole


@given(amounts, st.integers(min_value=0, max_value=10**6))
def test_times_is_repeated_addition_in_fractions(amount: Decimal, count: int) -> None:
    assert Fraction(usd(amount).times(count).amount) == Fraction(amount) * count


@given(amounts)
def test_plain_text_reads_back_as_the_same_amount(amount: Decimal) -> None:
    text = plain(amount)
    assert parse_amount(text) == amount
    assert "E" not in text.upper()


@given(amounts, amounts)
def test_order_is_that_of_the_amounts(a: Decimal, b: Decimal) -> None:
    assert (usd(a) < usd(b)) == (a < b)
    assert (usd(a) <= usd(b)) == (a <= b)


def test_currencies_do_not_mix() -> None:
    with pytest.raises(ValueError, match="cannot mix USD with EUR"):
        usd(Decimal(1)) + Money(Decimal(1), "EUR")


def test_rounding_is_half_even_and_only_on_request() -> None:
    assert str(usd(Decimal("0.125")).rounded()) == "0.12 USD"
    assert str(usd(Decimal("0.135")).rounded()) == "0.14 USD"
    assert str(usd(Decimal("0.0000015"))) == "0.0000015 USD"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a", "not a decimal"),
        ("", "not a decimal"),
        ("NaN", "out of range"),
        ("Infinity", "out of range"),
        ("1e20", "out of range"),
        ("0.0000000000000000001", "more than 18 decimals"),
        ("1e-19", "more than 18 decimals"),
    ],
)
def test_what_is_no_amount_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        parse_amount(text, field="price")
    assert caught.value.param == "price"
