"""Where usage is priced: one pure function, called when usage comes in and when the ledger is replayed."""

from datetime import datetime
from decimal import ROUND_DOWN, Decimal

import msgspec

from cloudcrest.billing.api import Charge, LineKind, PricedLine, RateCard
from cloudcrest.kernel.money import PRICE_DECIMALS, Money, charge_per
from cloudcrest.kernel.usage import Tier, Usage

_PER_MILLION, _PER_THOUSAND, _PER_ONE = 6, 3, 0
_NOTHING = Decimal(0)
_SMALLEST = Decimal(1).scaleb(-PRICE_DECIMALS)


class Prices(msgspec.Struct, frozen=True):
    """What a rate card says in one tier, its defaults filled in: per million tokens or characters, second, image."""

    input: Decimal
    cached_input: Decimal
    cache_write: Decimal
    output: Decimal
    characters: Decimal
    audio: Decimal
    images: Decimal
    accelerators: Decimal
    cpu: Decimal


def prices_of(card: RateCard, tier: Tier) -> Prices:
    """The prices that hold in a tier. Half a price that has 13 decimals is rounded down to 12."""
    plain, cached = card.input_price_per_million_tokens, card.cached_input_price_per_million_tokens
    written, output = card.cache_write_price_per_million_tokens, card.output_price_per_million_tokens
    if tier == "batch":
        plain = _else_half(card.batch_input_price_per_million_tokens, plain)
        cached = _else_half(card.batch_cached_input_price_per_million_tokens, cached)
        written = None if written is None else _else_half(None, written)
        output = _else_half(card.batch_output_price_per_million_tokens, output)
    return Prices(
        plain,
        cached,
        plain if written is None else written,
        output,
        card.price_per_million_characters or _NOTHING,
        card.price_per_audio_second or _NOTHING,
        card.price_per_image or _NOTHING,
        card.price_per_accelerator_second or _NOTHING,
        card.price_per_cpu_second or _NOTHING,
    )


def price_usage(usage: Usage, rate_card: RateCard, tier: Tier = "standard") -> Charge:
    """What `usage` costs by `rate_card`, exactly, with a line for each price that applies to anything.

    Cached and written input tokens are parts of the input tokens and are priced apart from the rest. An engine that
    reports more of them than there was input is believed only up to the input.
    """
    prices = prices_of(rate_card, tier)
    plain, cached, written = parts_of_input(usage)
    prefix = "batch_" if tier == "batch" else ""
    parts: tuple[tuple[str, int, Decimal, int], ...] = (
        (f"{prefix}input", plain, prices.input, _PER_MILLION),
        (f"{prefix}cached_input", cached, prices.cached_input, _PER_MILLION),
        (f"{prefix}cache_write", written, prices.cache_write, _PER_MILLION),
        (f"{prefix}output", usage.output_tokens, prices.output, _PER_MILLION),
        ("characters", usage.characters, prices.characters, _PER_MILLION),
        ("audio", usage.audio_milliseconds, prices.audio, _PER_THOUSAND),
        ("images", usage.images, prices.images, _PER_ONE),
        ("accelerators", usage.accelerator_milliseconds, prices.accelerators, _PER_THOUSAND),
        ("cpu", usage.cpu_milliseconds, prices.cpu, _PER_THOUSAND),
    )
    lines = tuple(
        PricedLine(msgspec.convert(kind, LineKind), quantity, price, charge_per(price, quantity, exponent))
        for kind, quantity, price, exponent in parts
        if quantity
    )
    total = Money.zero(rate_card.currency)
    for line in lines:
        total += Money(line.amount, rate_card.currency)
    return Charge(rate_card.currency, rate_card.id, lines, total.amount)


def parts_of_input(usage: Usage) -> tuple[int, int, int]:
    """The input tokens that were neither cached nor written, those that were cached, and those that were written."""
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    return usage.input_tokens - cached - written, cached, written


def card_in_force(cards: list[RateCard], at: datetime) -> RateCard | None:
    """Of the cards of one model and currency, the one that holds `at` a moment: the latest that has begun by then."""
    begun = [card for card in cards if card.valid_from <= at]
    return max(begun, key=lambda card: card.valid_from, default=None)


def _else_half(given: Decimal | None, price: Decimal) -> Decimal:
    return given if given is not None else (price / 2).quantize(_SMALLEST, ROUND_DOWN).normalize()
