"""Exact money: a decimal amount and its currency, never a float.

A price has at most 12 decimals, a token count is an integer and a million has 6 zeros, so every charge is exact within
18 decimals; that is what the database keeps (NUMERIC(38, 18)). Nothing is rounded until an invoice is.
"""

from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Self

import msgspec

from cloudcrest.kernel.errors import InvalidInput

AMOUNT_DECIMALS = 18
PRICE_DECIMALS = 12
_EXACT = Context(prec=60)
_MAX_AMOUNT = Decimal(10) ** 20


class Money(msgspec.Struct, frozen=True, order=False):
    """An amount in one currency (ISO 4217, three capitals). Arithmetic between currencies raises `ValueError`."""

    amount: Decimal
    currency: str

    @classmethod
    def zero(cls, currency: str) -> Self:
        return cls(Decimal(0), currency)

    def __add__(self, other: "Money") -> "Money":
        return Money(_EXACT.add(self.amount, self._same(other).amount), self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(_EXACT.subtract(self.amount, self._same(other).amount), self.currency)

    def __neg__(self) -> "Money":
        return Money(_EXACT.minus(self.amount), self.currency)

    def __lt__(self, other: "Money") -> bool:
        return self.amount < self._same(other).amount

    def __le__(self, other: "Money") -> bool:
        return self.amount <= self._same(other).amount

    def times(self, count: int) -> "Money":
        """`count` times this amount, exactly."""
        return Money(_EXACT.multiply(self.amount, Decimal(count)), self.currency)

    def rounded(self, decimals: int = 2) -> "Money":
        """Rounded half to even; only for what is shown or invoiced."""
        return Money(self.amount.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN, _EXACT), self.currency)

    def __str__(self) -> str:
        return f"{plain(self.amount)} {self.currency}"

    def _same(self, other: "Money") -> "Money":
        if other.currency != self.currency:
            raise ValueError(f"cannot mix {self.currency} with {other.currency}")
        return other


def plain(amount: Decimal) -> str:
    """Digits without exponent or trailing zeros: `0.0000015`."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_amount(text: str, *, field: str = "amount", max_decimals: int = AMOUNT_DECIMALS) -> Decimal:
    """A finite decimal within bounds. Raises `InvalidInput` naming `field`."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise InvalidInput(f"'{text}' is not a decimal number", param=field) from None
    if not amount.is_finite() or abs(amount) >= _MAX_AMOUNT:
        raise InvalidInput(f"'{text}' is out of range", param=field)
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and -exponent > max_decimals:
        raise InvalidInput(f"'{text}' has more than {max_decimals} decimals", param=field)
    return amount


def charge_per(price: Decimal, count: int, exponent: int) -> Decimal:
    """`count` units at a price for 10^`exponent` of them, exactly."""
    return _EXACT.multiply(price, Decimal(count)).scaleb(-exponent, _EXACT)
