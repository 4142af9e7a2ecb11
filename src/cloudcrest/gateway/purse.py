"""What a worker holds of budgets, and what a request holds of that: integer arithmetic, and nothing else.

Amounts are units of 10⁻¹⁸, times Unix microseconds.
"""

from typing import Final, NamedTuple

from cloudcrest.billing.grants import Ask, Grant
from cloudcrest.billing.tariff import Tariff, beside_units, charge_units, compute_units, most_units, plain_units
from cloudcrest.kernel.usage import Hold, Usage


class Beside(NamedTuple):
    """What a request can use at most of what is not counted in tokens."""

    characters: int = 0
    audio_milliseconds: int = 0
    images: int = 0
    accelerator_milliseconds: int = 0
    cpu_milliseconds: int = 0


NOTHING_BESIDE: Final = Beside()


class Purse:
    """One grant in the worker's hands. What it has spent is `units` − `free` − `held`; `told`: the last promise."""

    __slots__ = ("ends_at", "free", "held", "id", "pocket", "told", "units")

    def __init__(self, grant: Grant, pocket: "Pocket") -> None:
        self.id = grant.id
        self.pocket = pocket
        self.ends_at = grant.ends_at_microseconds
        self.units = self.told = self.free = grant.units
        self.held = 0


class Pocket:
    """What the worker holds of one scope. `name`: as people are told. `ends_at`: from then on no request is in it.

    `purse`: the one to take from first. Below `low` in it, more is asked for ahead of need.
    """

    __slots__ = (
        "ask", "ends_at", "is_cold", "is_resent", "left_hint", "low", "name", "not_before", "purse", "purses",
        "scope", "top_up_after", "wanted", "wish",
    )  # fmt: skip

    def __init__(self, scope: str, name: str, ends_at: int) -> None:
        self.scope = scope
        self.name = name
        self.ends_at = ends_at
        self.purse: Purse | None = None
        self.purses: list[Purse] = []
        self.low = 0
        self.wanted = 0
        self.ask: Ask | None = None
        self.is_resent = False
        self.is_cold = True
        """No answer was ever heard about it: this worker is new, or has not served anyone of it yet."""
        self.wish: tuple[int, int, int, bool] | None = None
        self.not_before = 0
        self.top_up_after = 0
        self.left_hint = 0
        """What could be granted when it was last refused; until `not_before` there is no use in asking for more."""

    def free_units(self, until: int) -> int:
        """What can be reserved for a request that ends by then."""
        return sum(purse.free for purse in self.purses if purse.ends_at >= until)


class Claim:
    """One request's: what it may cost at most, and what is held for it. `settle` once, with what it came to.

    `beside`: the most of what is not counted in tokens.
    `is_open`: the caller gave no limit of the output, so it may be limited to what there is; never below `least`.
    `rate_card_id` empty: it has no price yet, and is held to there being anything left at all.
    """

    __slots__ = (
        "beside", "branches", "input_tokens", "is_capped", "is_open", "is_settled", "least", "most", "output_tokens",
        "parts", "pockets", "rate_card_id", "tariff", "until",
    )  # fmt: skip

    def __init__(
        self,
        pockets: tuple[Pocket, ...],
        tariff: Tariff,
        rate_card_id: str,
        *,
        input_tokens: int,
        output_tokens: int,
        branches: int,
        is_open: bool,
        until: int,
        beside: Beside = NOTHING_BESIDE,
    ) -> None:
        self.pockets = pockets
        self.tariff = tariff
        self.rate_card_id = rate_card_id
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.branches = branches
        self.is_open = is_open
        self.is_capped = False
        self.until = until
        self.beside = beside
        extra = 0
        if beside is not NOTHING_BESIDE:
            extra = beside_units(beside.characters, beside.audio_milliseconds, beside.images, tariff)
            extra += compute_units(beside.accelerator_milliseconds, beside.cpu_milliseconds, tariff)
        self.most = most_units(input_tokens, output_tokens, tariff) + extra or 1
        self.least = (most_units(input_tokens, branches, tariff) + extra or 1) if is_open else self.most
        self.parts: list[tuple[Purse, int]] = []
        self.is_settled = False

    def holds(self) -> tuple[Hold, ...]:
        """What its event carries."""
        return tuple([Hold(purse.pocket.scope, purse.id, units) for purse, units in self.priced_parts()])

    def priced_parts(self) -> list[tuple[Purse, int]]:
        """What is held for it and counts as such: nothing without a price."""
        return self.parts if self.rate_card_id else []

    def has_room_for(self, input_tokens: int, output_tokens: int) -> bool:
        """Whether so many tokens were reserved, and nothing beside them."""
        return (
            input_tokens <= self.input_tokens and output_tokens <= self.output_tokens and self.beside is NOTHING_BESIDE
        )

    def within(self, usage: Usage) -> Usage:
        """The usage, as far as it was reserved: an engine that counts more than was agreed is not believed."""
        if self.has_room_for(usage.input_tokens, usage.output_tokens) and not (
            usage.characters or usage.audio_milliseconds or usage.images
        ):
            return usage
        if not self.rate_card_id:
            return usage
        beside = self.beside
        input_tokens = min(usage.input_tokens, self.input_tokens)
        output_tokens = min(usage.output_tokens, self.output_tokens)
        cached_tokens = min(usage.cached_input_tokens, input_tokens)
        return Usage(
            input_tokens,
            output_tokens,
            cached_tokens,
            min(usage.reasoning_tokens, output_tokens),
            usage.is_estimate,
            min(usage.cache_write_tokens, input_tokens - cached_tokens),
            min(usage.characters, beside.characters),
            min(usage.audio_milliseconds, beside.audio_milliseconds),
            min(usage.images, beside.images),
            min(usage.accelerator_milliseconds, beside.accelerator_milliseconds),
            min(usage.cpu_milliseconds, beside.cpu_milliseconds),
        )

    def limit_for(self, engine: str, context_tokens: int) -> int:
        """The output tokens that each choice of a capped claim may have."""
        tokens = self.output_tokens // self.branches
        if engine == "vllm":  # refuses a limit that prompt and output together could not have
            return max(1, min(tokens, context_tokens - self.input_tokens))
        return tokens

    def charge(self, usage: Usage) -> int:
        """What usage costs, in units."""
        return charge_units(usage, self.tariff) if self.rate_card_id else 0

    def charge_of_tokens(self, input_tokens: int, output_tokens: int) -> int:
        """The same of tokens alone, none of them from a cache."""
        return plain_units(input_tokens, output_tokens, self.tariff) if self.rate_card_id else 0

    def settle(self, charge: int) -> None:
        """Spends the charge and frees the rest, once."""
        if self.is_settled:
            return
        self.is_settled = True
        pocket: Pocket | None = None
        rest = 0
        for purse, units in self.parts:
            if purse.pocket is not pocket:
                pocket, rest = purse.pocket, charge
            part = min(rest, units)
            rest -= part
            purse.held -= units
            purse.free += units - part
