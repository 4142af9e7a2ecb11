"""The public face of billing: rate cards, priced usage and the ledger's entries."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec

from cloudcrest.billing.periods import Period

EntryKind = Literal["usage", "credit", "adjustment"]

RATE_CARD_KIND = "rate_card"
"""Of documents in the feed: a `RateCardsDocument`, by currency and model."""


LineKind = Literal[
    "input", "cached_input", "cache_write", "output",
    "batch_input", "batch_cached_input", "batch_cache_write", "batch_output",
    "characters", "audio", "images", "accelerators", "cpu",
]  # fmt: skip


class RateCard(msgspec.Struct, frozen=True):
    """Prices of one model from a moment on, in one currency.

    `cached_input` is what cached input tokens cost instead of `input`, `cache_write` those that are written into a
    cache (None: as `input`). `batch_…`: what tokens cost in a batch (None: half). What has no price costs nothing. Of
    `compute/<accelerator type>` and `compute/cpu` a second has a price.
    """

    id: str
    model: str
    currency: str
    valid_from: datetime
    input_price_per_million_tokens: Decimal
    cached_input_price_per_million_tokens: Decimal
    output_price_per_million_tokens: Decimal
    cache_write_price_per_million_tokens: Decimal | None = None
    batch_input_price_per_million_tokens: Decimal | None = None
    batch_cached_input_price_per_million_tokens: Decimal | None = None
    batch_output_price_per_million_tokens: Decimal | None = None
    price_per_million_characters: Decimal | None = None
    price_per_audio_second: Decimal | None = None
    price_per_image: Decimal | None = None
    price_per_accelerator_second: Decimal | None = None
    price_per_cpu_second: Decimal | None = None


class RateCardsDocument(msgspec.Struct, frozen=True):
    """What gateways know of a model's prices in a currency: the card in force and those to come, oldest first."""

    model: str
    currency: str
    cards: tuple[RateCard, ...]


class PricedLine(msgspec.Struct, frozen=True):
    """One line of a charge: `quantity` at `price` is `amount`, exactly.

    The quantity is in tokens, characters, milliseconds or images; the price is for a million tokens or characters, for
    a second (of sound, of an accelerator, of a processor), or for an image.
    """

    kind: LineKind
    quantity: int
    price: Decimal
    amount: Decimal


class Charge(msgspec.Struct, frozen=True):
    """What one usage event costs."""

    currency: str
    rate_card_id: str
    lines: tuple[PricedLine, ...]
    amount: Decimal


class Budget(msgspec.Struct, frozen=True):
    """A hard limit of what may be spent in a period: by an organization, one of its projects, or one key."""

    id: str
    organization_id: str
    project_id: str | None
    key_id: str | None
    period: Period
    currency: str
    amount: Decimal
    created_at: datetime
    created_by: str | None


class BudgetState(msgspec.Struct, frozen=True):
    """A budget in its present period, from `since` until `until` (None: for good). `reserved`: what gateways hold of it
    for requests under way or to come; it is spent or comes back.
    """

    budget: Budget
    since: datetime | None
    until: datetime | None
    spent: Decimal
    reserved: Decimal


class Account(msgspec.Struct, frozen=True):
    """An organization's account."""

    organization_id: str
    currency: str
    balance: Decimal


class LedgerEntry(msgspec.Struct, frozen=True):
    """One movement of an account, in its currency: negative for usage, positive for a credit.

    Usage entries have an event, a rate card, lines and whose usage it was; the others a note and perhaps a reference.
    """

    id: str
    organization_id: str
    currency: str
    kind: EntryKind
    amount: Decimal
    created_at: datetime
    event_id: str | None = None
    rate_card_id: str | None = None
    lines: tuple[PricedLine, ...] = ()
    project_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    usage_started_at: datetime | None = None
    note: str | None = None
    reference: str | None = None
    created_by: str | None = None


UnpricedReason = Literal["no_rate_card", "unknown_organization"]


class UnpricedUsage(msgspec.Struct, frozen=True):
    """A usage event that waits to be priced, and why."""

    event_id: str
    organization_id: str
    project_id: str
    model: str
    reason: UnpricedReason
    created_at: datetime


DifferenceKind = Literal[
    "missing_entry", "wrong_entry", "entry_without_event", "unpriced", "wrong_balance", "entry_without_account"
]


class Difference(msgspec.Struct, frozen=True):
    """Where the ledger is not what a replay gives. `subject` is the event's, entry's or organization's id."""

    kind: DifferenceKind
    subject: str
    organization_id: str
    field: str
    expected: str
    found: str


class VerifyReport(msgspec.Struct, frozen=True):
    """What a replay found. `differences` holds the first ones, `differences_total` counts all.

    `charged`: what all replayed usage costs, by currency.
    """

    events_replayed: int
    entries_checked: int
    events_waiting: int
    accounts_checked: int
    charged: dict[str, Decimal]
    differences: tuple[Difference, ...]
    differences_total: int

    @property
    def is_consistent(self) -> bool:
        """Whether the ledger equals its replay to the last unit."""
        return self.differences_total == 0
