"""Prices in whole units of 10⁻¹⁸: what a gateway needs to know a charge without a decimal, and without a rounding.

A price per million tokens has 12 decimals at most, so a token costs a whole number of units, and every charge is the
same to the last unit as `pricing.price_usage` books it (tests hold the two together).
"""

from decimal import Context, Decimal
from math import gcd
from typing import Final

from cloudcrest.billing.api import RateCard
from cloudcrest.billing.pricing import parts_of_input, prices_of
from cloudcrest.kernel.money import AMOUNT_DECIMALS, PRICE_DECIMALS
from cloudcrest.kernel.usage import Tier, Usage

_EXACT_DIGITS = 60
_EXACT = Context(prec=60)
_MAX_STEP: Final = 10**9
"""Compiled, a product is taken at once where both factors are below 2³⁰, and this is the largest power of ten there."""


class Tariff:
    """What one token, character, millisecond or image costs, in units of 10⁻¹⁸ of the currency. It never changes.

    A plain class: a gateway reads several prices for each request, and compiled it reads these at once.
    `is_of_tokens`: nothing but tokens costs anything. The prices of tokens are multiples of `step`, and small numbers
    in steps, as most prices have few decimals; `dearest_input_steps`: what an input token costs at most.
    """

    __slots__ = (
        "accelerator_millisecond", "audio_millisecond", "cache_write", "cached_input", "character", "cpu_millisecond",
        "dearest_input_steps", "image", "input", "input_steps", "is_of_tokens", "output", "output_steps", "step",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 - as `tariff_of` lists them
        self,
        input: int,  # noqa: A002 - as the rate card calls it
        cached_input: int,
        output: int,
        cache_write: int = 0,
        character: int = 0,
        audio_millisecond: int = 0,
        image: int = 0,
        accelerator_millisecond: int = 0,
        cpu_millisecond: int = 0,
    ) -> None:
        self.input = input
        self.cached_input = cached_input
        self.output = output
        self.cache_write = cache_write
        self.character = character
        self.audio_millisecond = audio_millisecond
        self.image = image
        self.accelerator_millisecond = accelerator_millisecond
        self.cpu_millisecond = cpu_millisecond
        self.step = step = gcd(input, cached_input, cache_write, output, _MAX_STEP)
        self.input_steps = input // step
        self.output_steps = output // step
        self.dearest_input_steps = max(input, cached_input, cache_write) // step
        self.is_of_tokens = not (character or audio_millisecond or image or accelerator_millisecond or cpu_millisecond)


def to_units(amount: Decimal) -> int:
    """An amount of money in units. Raises `ValueError` where it has more than 18 decimals."""
    return _whole(amount, AMOUNT_DECIMALS)


def to_amount(units: int) -> Decimal:
    """An amount of money from its units, exactly."""
    return Decimal(units).scaleb(-AMOUNT_DECIMALS, _EXACT)


def tariff_of(card: RateCard, tier: Tier = "standard") -> Tariff:
    """A rate card's prices in a tier: n × 10⁻¹² per million are n units each."""
    prices = prices_of(card, tier)
    return Tariff(
        _whole(prices.input, PRICE_DECIMALS),
        _whole(prices.cached_input, PRICE_DECIMALS),
        _whole(prices.output, PRICE_DECIMALS),
        _whole(prices.cache_write, PRICE_DECIMALS),
        _whole(prices.characters, PRICE_DECIMALS),
        _whole(prices.audio, AMOUNT_DECIMALS - 3),
        _whole(prices.images, AMOUNT_DECIMALS),
        _whole(prices.accelerators, AMOUNT_DECIMALS - 3),
        _whole(prices.cpu, AMOUNT_DECIMALS - 3),
    )


def charge_units(usage: Usage, tariff: Tariff) -> int:
    """What `usage` costs, exactly."""
    if usage.cached_input_tokens or usage.cache_write_tokens:
        plain, cached, written = parts_of_input(usage)
        charge: int = usage.output_tokens * tariff.output
        charge += plain * tariff.input + cached * tariff.cached_input + written * tariff.cache_write
    else:
        charge = plain_units(usage.input_tokens, usage.output_tokens, tariff)
    if tariff.is_of_tokens:
        return charge
    charge += beside_units(usage.characters, usage.audio_milliseconds, usage.images, tariff)
    return charge + compute_units(usage.accelerator_milliseconds, usage.cpu_milliseconds, tariff)


def plain_units(input_tokens: int, output_tokens: int, tariff: Tariff) -> int:
    """What tokens cost, of which none were read from a cache or written into one."""
    return (input_tokens * tariff.input_steps + output_tokens * tariff.output_steps) * tariff.step


def beside_units(characters: int, audio_milliseconds: int, images: int, tariff: Tariff) -> int:
    """What is not counted in tokens costs."""
    return characters * tariff.character + audio_milliseconds * tariff.audio_millisecond + images * tariff.image


def compute_units(accelerator_milliseconds: int, cpu_milliseconds: int, tariff: Tariff) -> int:
    """What a job holds costs."""
    return accelerator_milliseconds * tariff.accelerator_millisecond + cpu_milliseconds * tariff.cpu_millisecond


def most_units(input_tokens: int, output_tokens: int, tariff: Tariff) -> int:
    """The most that up to so many tokens can cost, whatever part of the input a cache is used for."""
    return (input_tokens * tariff.dearest_input_steps + output_tokens * tariff.output_steps) * tariff.step


def affordable_output_tokens(units: int, input_tokens: int, tariff: Tariff) -> int | None:
    """How many output tokens `units` pay for after the input. None: any number; below one: not even the first."""
    rest = units - most_units(input_tokens, 0, tariff)
    if rest < 0:
        return 0
    return rest // tariff.output if tariff.output else None


def _whole(amount: Decimal, decimals: int) -> int:
    sign, digits, exponent = amount.as_tuple()
    if not isinstance(exponent, int) or len(digits) > _EXACT_DIGITS:
        raise ValueError(f"{amount} is not a finite amount")
    number = int("".join(map(str, digits)))
    shift = exponent + decimals
    if shift < 0:
        number, rest = divmod(number, int(10**-shift))
        if rest:
            raise ValueError(f"{amount} has more than {decimals} decimals")
    else:
        number *= int(10**shift)
    return -number if sign else number
