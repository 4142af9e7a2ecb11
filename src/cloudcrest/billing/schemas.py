"""What the routes of usage and money take and answer. Amounts and prices are decimal strings: exact in every client."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from cloudcrest.billing.api import DifferenceKind, EntryKind, LineKind, UnpricedReason
from cloudcrest.billing.periods import Period
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.money import PRICE_DECIMALS, parse_amount
from cloudcrest.kernel.usage import Outcome, Tier
from cloudcrest.metering.api import GroupBy

_CURRENCY = r"^[A-Z]{3}$"
_DECIMAL = r"^-?\d{1,12}(\.\d{1,18})?$"
_PRICE_PATTERN = r"^\d{1,9}(\.\d{1,12})?$"


def _printable(text: str) -> str:
    if "\0" in text:
        raise ValueError("contains a NUL character")
    return text


def _written_as(pattern: str, words: str) -> BeforeValidator:
    """Says in words how it is written before the pattern would show itself."""

    def check(value: object) -> object:
        if isinstance(value, str) and not re.match(pattern, value):
            raise ValueError(words)
        return value

    return BeforeValidator(check)


Currency = Annotated[
    str,
    Field(pattern=_CURRENCY, examples=["USD"], description="ISO 4217"),
    _written_as(_CURRENCY, "is no currency, as in USD"),
]
Amount = Annotated[
    str,
    Field(pattern=_DECIMAL, examples=["25.00"]),
    _written_as(_DECIMAL, "is no amount, as in 25 or -0.50: up to 12 digits, a point, up to 18 decimals"),
]
Identifier = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]
ModelName = Annotated[
    str, Field(min_length=1, max_length=200, examples=["smollm2-135m-instruct"]), AfterValidator(_printable)
]
Reference = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
Price = Annotated[
    str,
    Field(pattern=_PRICE_PATTERN, examples=["0.02"], description="Of a million tokens"),
    _written_as(_PRICE_PATTERN, "is no price, as in 0.02: up to 9 digits, a point, up to 12 decimals"),
]


BudgetAmount = Annotated[str, Field(pattern=r"^\d{1,12}(\.\d{1,18})?$", examples=["25.00"])]


class Closed(BaseModel):
    """A body in which nothing unknown passes."""

    model_config = ConfigDict(extra="forbid")


class AmountView(BaseModel):
    """An exact amount of money."""

    currency: str = Field(examples=["USD"])
    amount: str = Field(examples=["0.00000244"])


class LineView(BaseModel):
    """`quantity` at `price` is `amount`, exactly.

    By `unit`: a quantity of tokens or characters at a price for a million, of milliseconds at a price for a second, or
    of images at a price for one.
    """

    kind: LineKind
    quantity: int
    unit: Literal["million_tokens", "million_characters", "second", "image"] = Field(
        description="What the price is for"
    )
    price: str = Field(examples=["0.02"])
    amount: str = Field(examples=["0.00000074"])


class ChargeView(BaseModel):
    """What a request cost, and the prices it follows from."""

    currency: str = Field(examples=["USD"])
    amount: str = Field(examples=["0.00000244"])
    rate_card_id: str
    ledger_entry_id: str
    lines: list[LineView]


class TokensView(BaseModel):
    """What was used, in tokens and otherwise.

    `cached_input_tokens` and `cache_write_tokens` are parts of `input_tokens`, `reasoning_tokens` of `output_tokens`.
    `characters` were spoken, `audio_milliseconds` listened to, `images` made; `accelerator_milliseconds` and
    `cpu_milliseconds` were held by a job.
    `is_estimate`: counted from what was relayed, because the engine's own count was lost.
    """

    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    is_estimate: bool
    cache_write_tokens: int = 0
    characters: int = 0
    audio_milliseconds: int = 0
    images: int = 0
    accelerator_milliseconds: int = 0
    cpu_milliseconds: int = 0


class UsageView(BaseModel):
    """One served request. No `charge`: it waits to be priced, `unpriced_reason` says for what."""

    id: str = Field(examples=["req_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    started_at: datetime
    duration_milliseconds: int
    first_token_milliseconds: int | None
    organization_id: str
    project_id: str
    key_id: str
    model: str = Field(examples=["smollm2-135m-instruct"])
    region: str
    deployment_id: str = Field(examples=["dep_01k9zq3v5e8m2n4p6r8t0w2y4z"], description="The one of it that answered")
    endpoint: str = Field(examples=["/v1/chat/completions"])
    is_stream: bool
    outcome: Outcome
    usage: TokensView
    tier: Tier = Field(default="standard", description="batch: a line of a batch, at batch prices")
    charge: ChargeView | None
    unpriced_reason: UnpricedReason | None = None


class UsageGroupView(BaseModel):
    """Sums of the requests that share a model, day (UTC), both, project or key: what was grouped by is set.

    `charges` has the sum in each currency; `amount` and `currency` are set where there is just one.
    """

    model: str | None = None
    day: str | None = Field(default=None, examples=["2026-11-23"])
    project_id: str | None = None
    key_id: str | None = None
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cache_write_tokens: int = 0
    cache_hit_rate: float | None = Field(
        default=None, description="The part of the input that was read from a cache; null: there was no input"
    )
    characters: int = 0
    audio_milliseconds: int = 0
    images: int = 0
    accelerator_milliseconds: int = 0
    cpu_milliseconds: int = 0
    unpriced_requests: int
    charges: list[AmountView]
    amount: str | None = None
    currency: str | None = None


class UsageSummary(BaseModel):
    """The groups, sorted; the first 1,000."""

    group_by: GroupBy
    data: list[UsageGroupView]


class UnpricedView(BaseModel):
    """A request that waits to be priced: for a rate card of its model, or for its organization's account."""

    id: str = Field(examples=["req_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    organization_id: str
    project_id: str
    model: str
    reason: UnpricedReason
    received_at: datetime


class CreateRateCard(Closed):
    """Prices of a model from a moment on."""

    model: ModelName
    currency: Currency = "USD"
    input_price_per_million_tokens: Price
    cached_input_price_per_million_tokens: Annotated[
        Price | None, Field(description="Of cached input tokens; null: as input")
    ] = None
    output_price_per_million_tokens: Price
    cache_write_price_per_million_tokens: Annotated[
        Price | None, Field(description="Of input tokens written into a cache; null: as input")
    ] = None
    batch_input_price_per_million_tokens: Annotated[Price | None, Field(description="In a batch; null: half")] = None
    batch_cached_input_price_per_million_tokens: Annotated[
        Price | None, Field(description="In a batch; null: half")
    ] = None
    batch_output_price_per_million_tokens: Annotated[Price | None, Field(description="In a batch; null: half")] = None
    price_per_million_characters: Annotated[Price | None, Field(description="Of text that is spoken")] = None
    price_per_audio_second: Annotated[Price | None, Field(description="Of sound that is listened to")] = None
    price_per_image: Annotated[Price | None, Field(description="Of an image that is made")] = None
    price_per_accelerator_second: Annotated[
        Price | None, Field(description="Of a second of an accelerator; the model is compute/<accelerator type>")
    ] = None
    price_per_cpu_second: Annotated[
        Price | None,
        Field(description="Of a second of a processor; the model is compute/cpu or that of its accelerator"),
    ] = None
    valid_from: Annotated[AwareDatetime | None, Field(description="null: from now on")] = None


class RateCardView(BaseModel):
    """What a model costs from `valid_from` on, until a later card's moment. null: the default, see `CreateRateCard`."""

    id: str = Field(examples=["rate_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    model: str = Field(examples=["smollm2-135m-instruct"])
    currency: str = Field(examples=["USD"])
    valid_from: datetime
    input_price_per_million_tokens: str = Field(examples=["0.02"])
    cached_input_price_per_million_tokens: str = Field(examples=["0.01"])
    output_price_per_million_tokens: str = Field(examples=["0.04"])
    cache_write_price_per_million_tokens: str | None = Field(default=None, examples=["0.025"])
    batch_input_price_per_million_tokens: str | None = Field(default=None, examples=["0.01"])
    batch_cached_input_price_per_million_tokens: str | None = Field(default=None, examples=["0.005"])
    batch_output_price_per_million_tokens: str | None = Field(default=None, examples=["0.02"])
    price_per_million_characters: str | None = Field(default=None, examples=["15"])
    price_per_audio_second: str | None = Field(default=None, examples=["0.0001"])
    price_per_image: str | None = Field(default=None, examples=["0.02"])
    price_per_accelerator_second: str | None = Field(default=None, examples=["0.0008"])
    price_per_cpu_second: str | None = Field(default=None, examples=["0.00001"])


class EntryView(BaseModel):
    """One movement of an account. Usage is negative and says how it came about; credits are positive."""

    id: str = Field(examples=["led_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    organization_id: str
    kind: EntryKind
    amount: str = Field(examples=["-0.00000244"])
    currency: str = Field(examples=["USD"])
    created_at: datetime
    usage_event_id: str | None = None
    rate_card_id: str | None = None
    lines: list[LineView] = []
    project_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    note: str | None = None
    reference: str | None = None


class BalanceView(BaseModel):
    """What an organization has left. `is_suspended`: nothing is served until a credit brings it above zero."""

    organization_id: str
    amount: str = Field(examples=["9.99999756"])
    currency: str = Field(examples=["USD"])
    is_suspended: bool


class CreateCredit(Closed):
    """A credit, or an adjustment of either sign. Without `kind`, an amount above zero is a credit.

    `reference` is your own name for it: the same one again books nothing and answers with the entry there is.
    """

    organization_id: Identifier
    amount: Amount
    currency: Currency = "USD"
    note: Annotated[
        str, Field(min_length=1, max_length=500, examples=["Invoice 2026-117 paid"]), AfterValidator(_printable)
    ]
    kind: Literal["credit", "adjustment"] | None = None
    reference: Annotated[Reference | None, Field(examples=["invoice-2026-117"])] = None


class CreateBudget(Closed):
    """A hard limit of what may be spent, in each period or in total.

    Of one key, of one project, or of the organization: name one of them, or none for your only organization. What was
    spent in the present period counts. At 0 nothing is served.
    """

    organization_id: Identifier | None = None
    project_id: Identifier | None = None
    key_id: Identifier | None = None
    period: Period = Field(description="Days and months are in UTC")
    amount: BudgetAmount
    currency: Annotated[Currency | None, Field(description="null: the account's")] = None


class UpdateBudget(Closed):
    """A new limit. Lowered, it takes nothing back that requests under way have reserved."""

    amount: BudgetAmount


class BudgetView(BaseModel):
    """A budget in its present period, which ends at `period_end` (null: never).

    `spent` is charged, `remaining` is not; `reserved` is the part of `remaining` that gateways hold for requests.
    """

    id: str = Field(examples=["bud_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    organization_id: str
    project_id: str | None
    key_id: str | None
    period: Period
    currency: str = Field(examples=["USD"])
    amount: str = Field(examples=["25"])
    spent: str = Field(examples=["4.0371"])
    reserved: str = Field(examples=["0.5"])
    remaining: str = Field(examples=["20.9629"])
    period_start: datetime | None
    period_end: datetime | None
    created_at: datetime


class VerifyLedger(Closed):
    """What to replay. No organization: for operators the whole cloud, else the caller's only organization."""

    organization_id: Identifier | None = None


class DifferenceView(BaseModel):
    """Where the ledger is not what the replay gives."""

    kind: DifferenceKind
    subject: str
    organization_id: str
    field: str
    expected: str
    found: str


class VerifyView(BaseModel):
    """What the replay found: `ok` where the ledger equals it to the last unit. `differences` has the first 100."""

    ok: bool
    events_replayed: int
    entries_checked: int
    events_waiting: int
    accounts_checked: int
    charged: list[AmountView]
    differences_total: int
    differences: list[DifferenceView]


def price(text: str, field: str) -> Decimal:
    """A price within bounds. Raises `InvalidInput`."""
    return parse_amount(text, field=f"body.{field}", max_decimals=PRICE_DECIMALS)


def moment(value: datetime, field: str) -> datetime:
    """A time in UTC that the database can hold. Raises `InvalidInput`."""
    try:
        utc = value.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(f"{field} is out of range", param=field) from None
    if not 2000 <= utc.year < 2200:
        raise InvalidInput(f"{field} is out of range", param=field, hint="choose a year from 2000 to 2199")
    return utc
