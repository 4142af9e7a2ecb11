"""The public face of billing: rate cards, priced usage and the ledger's entries."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec

EntryKind = Literal["usage", "credit", "adjustment"]


class RateCard(msgspec.Struct, frozen=True):
    """Prices of one model from a moment on, per million tokens, in one currency.

    `cached_input` is what cached input tokens cost instead of `input`.
    """

    id: str
    model: str
    currency: str
    valid_from: datetime
    input_price_per_million_tokens: Decimal
    cached_input_price_per_million_tokens: Decimal
    output_price_per_million_tokens: Decimal


class PricedLine(msgspec.Struct, frozen=True):
    """One line of a charge: `tokens` × `price_per_million_tokens` / 10⁶ = `amount`, exactly."""

    kind: Literal["input", "cached_input", "output"]
    tokens: int
    price_per_million_tokens: Decimal
    amount: Decimal


class Charge(msgspec.Struct, frozen=True):
    """What one usage event costs."""

    currency: str
    rate_card_id: str
    lines: tuple[PricedLine, ...]
    amount: Decimal
