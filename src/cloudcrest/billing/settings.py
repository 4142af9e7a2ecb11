"""Settings of billing."""

from decimal import Decimal

import msgspec


class BillingSettings(msgspec.Struct, frozen=True):
    """`starting_credit`: what a new organization's account begins with, in its currency."""

    starting_credit: Decimal = Decimal(10)
