"""Settings of billing."""

from decimal import Decimal

import msgspec

from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.money import parse_amount


class BillingSettings(msgspec.Struct, frozen=True):
    """`starting_credit`: what a new organization's account begins with, in its currency; 0: it waits for a credit."""

    starting_credit: Decimal = Decimal(10)

    def __post_init__(self) -> None:
        try:
            amount = parse_amount(str(self.starting_credit), field="starting_credit")
        except InvalidInput as error:
            raise ValueError(f"starting_credit: {error.message}") from None
        if amount < 0:
            raise ValueError("starting_credit: below zero")
