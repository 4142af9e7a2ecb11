"""Tables of billing. Triggers (migration 0006) refuse every change of `ledger_entries` and of rate cards in force."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ForeignKey, Index, Numeric, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from cloudcrest.infra.database import Base
from cloudcrest.kernel.money import AMOUNT_DECIMALS, PRICE_DECIMALS

AMOUNT = Numeric(38, AMOUNT_DECIMALS)
PRICE = Numeric(38, PRICE_DECIMALS)
UNITS = Numeric(38, 0)


class RateCardRow(Base):
    """Prices of one model in one currency from a moment on, until the next card's moment."""

    __tablename__ = "rate_cards"
    __table_args__ = (UniqueConstraint("model", "currency", "valid_from"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    currency: Mapped[str]
    valid_from: Mapped[datetime]
    input_price_per_million_tokens: Mapped[Decimal] = mapped_column(PRICE)
    cached_input_price_per_million_tokens: Mapped[Decimal] = mapped_column(PRICE)
    output_price_per_million_tokens: Mapped[Decimal] = mapped_column(PRICE)
    cache_write_price_per_million_tokens: Mapped[Decimal | None] = mapped_column(PRICE)
    batch_input_price_per_million_tokens: Mapped[Decimal | None] = mapped_column(PRICE)
    batch_cached_input_price_per_million_tokens: Mapped[Decimal | None] = mapped_column(PRICE)
    batch_output_price_per_million_tokens: Mapped[Decimal | None] = mapped_column(PRICE)
    price_per_million_characters: Mapped[Decimal | None] = mapped_column(PRICE)
    price_per_audio_second: Mapped[Decimal | None] = mapped_column(PRICE)
    price_per_image: Mapped[Decimal | None] = mapped_column(PRICE)
    price_per_accelerator_second: Mapped[Decimal | None] = mapped_column(PRICE)
    price_per_cpu_second: Mapped[Decimal | None] = mapped_column(PRICE)
    created_at: Mapped[datetime]
    created_by: Mapped[str | None]


class AccountRow(Base):
    """An organization's account. `balance` is the sum of its entries, kept in the transaction that writes them.

    `is_suspended` is of an older version, which read it; nobody does any more.
    """

    __tablename__ = "accounts"

    organization_id: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str]
    balance: Mapped[Decimal] = mapped_column(AMOUNT)
    is_suspended: Mapped[bool]
    created_at: Mapped[datetime]


class LedgerEntryRow(Base):
    """One movement of an account: negative for usage, positive for a credit. Never changed, never deleted.

    Usage entries carry what explains them: the event, the rate card, the lines, and whose usage it was.
    `reference`: the operator's own name for a credit or adjustment, once per organization.
    """

    __tablename__ = "ledger_entries"
    __table_args__ = (
        UniqueConstraint("organization_id", "reference"),
        Index("ix_ledger_entries_organization_id_id", "organization_id", "id"),
        Index("ix_ledger_entries_organization_id_usage_started_at", "organization_id", "usage_started_at"),
        Index("ix_ledger_entries_model_currency_usage_started_at", "model", "currency", "usage_started_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("accounts.organization_id"))
    currency: Mapped[str]
    kind: Mapped[str]
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    created_at: Mapped[datetime]
    event_id: Mapped[str | None] = mapped_column(unique=True)
    rate_card_id: Mapped[str | None] = mapped_column(ForeignKey("rate_cards.id"))
    lines: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    project_id: Mapped[str | None]
    key_id: Mapped[str | None]
    model: Mapped[str | None]
    usage_started_at: Mapped[datetime | None]
    note: Mapped[str | None]
    reference: Mapped[str | None]
    created_by: Mapped[str | None]


class BudgetRow(Base):
    """A hard limit: of an organization, a project or a key, in each period."""

    __tablename__ = "budgets"
    __table_args__ = (Index("ix_budgets_organization_id_id", "organization_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("accounts.organization_id"))
    project_id: Mapped[str | None]
    key_id: Mapped[str | None]
    period: Mapped[str]
    currency: Mapped[str]
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    created_at: Mapped[datetime]
    created_by: Mapped[str | None]


class BudgetScopeRow(Base):
    """A budget in one period, or a balance. `charged_units`: what was spent of a budget in it, in 10⁻¹⁸.

    `recalled_until`: somebody was refused lately, so holders give back what they do not need.
    """

    __tablename__ = "budget_scopes"
    __table_args__ = (Index("ix_budget_scopes_recalled_until", "recalled_until"),)

    scope: Mapped[str] = mapped_column(primary_key=True)
    budget_id: Mapped[str]
    charged_units: Mapped[Decimal] = mapped_column(UNITS)
    recalled_until: Mapped[datetime | None]


class BudgetGrantRow(Base):
    """Part of a scope in the hands of a gateway worker's life (`holder`). Amounts in units of 10⁻¹⁸."""

    __tablename__ = "budget_grants"
    __table_args__ = (
        Index("ix_budget_grants_scope", "scope"),
        Index("ix_budget_grants_region_holder", "region", "holder"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str]
    region: Mapped[str]
    holder: Mapped[str]
    units: Mapped[Decimal] = mapped_column(UNITS)
    drawn_units: Mapped[Decimal] = mapped_column(UNITS)
    ends_at: Mapped[datetime]


class UnpricedUsageRow(Base):
    """An event that waits for what it cannot be priced without: a rate card, or its organization's account."""

    __tablename__ = "unpriced_usage"
    __table_args__ = (
        Index("ix_unpriced_usage_model_event_id", "model", "event_id"),
        Index("ix_unpriced_usage_organization_id_event_id", "organization_id", "event_id"),
    )

    event_id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str]
    project_id: Mapped[str]
    model: Mapped[str]
    reason: Mapped[str]
    created_at: Mapped[datetime]
