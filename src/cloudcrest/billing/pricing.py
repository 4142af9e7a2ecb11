"""Where a token is priced: one pure function, called when usage comes in and when the ledger is replayed."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

from cloudcrest.billing.api import Charge, PricedLine, RateCard
from cloudcrest.kernel.money import Money, charge_per_million
from cloudcrest.kernel.usage import Usage


def price_usage(usage: Usage, rate_card: RateCard) -> Charge:
    """What `usage` costs by `rate_card`, exactly, with a line for each price that applies to any tokens.

    Cached input tokens are a part of the input tokens and are priced apart from the rest. An engine that reports more
    of them than there was input is believed only up to the input.
    """
    cached_tokens = min(usage.cached_input_tokens, usage.input_tokens)
    parts: tuple[tuple[Literal["input", "cached_input", "output"], int, Decimal], ...] = (
        ("input", usage.input_tokens - cached_tokens, rate_card.input_price_per_million_tokens),
        ("cached_input", cached_tokens, rate_card.cached_input_price_per_million_tokens),
        ("output", usage.output_tokens, rate_card.output_price_per_million_tokens),
    )
    lines = tuple(
        PricedLine(kind, tokens, price, charge_per_million(price, tokens)) for kind, tokens, price in parts if tokens
    )
    total = Money.zero(rate_card.currency)
    for line in lines:
        total += Money(line.amount, rate_card.currency)
    return Charge(rate_card.currency, rate_card.id, lines, total.amount)


def card_in_force(cards: list[RateCard], at: datetime) -> RateCard | None:
    """Of the cards of one model and currency, the one that holds `at` a moment: the latest that has begun by then."""
    begun = [card for card in cards if card.valid_from <= at]
    return max(begun, key=lambda card: card.valid_from, default=None)
