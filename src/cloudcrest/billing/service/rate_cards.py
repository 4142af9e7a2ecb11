"""Rate cards: made by operators, read by all, never changed once in force; a newer one supersedes."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing import repository
from cloudcrest.billing.api import RateCard
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, NotFound
from cloudcrest.kernel.ids import NewId

Defer = Callable[[AsyncSession], Awaitable[None]]
"""Asks, inside the transaction, for waiting usage to be priced once it is committed."""


class Prices(msgspec.Struct, frozen=True):
    """Per million tokens."""

    input: Decimal
    cached_input: Decimal
    output: Decimal


class RateCards:
    """Creates, withdraws and lists rate cards."""

    def __init__(self, clock: Clock, new_id: NewId, price_waiting: Defer) -> None:
        self._clock = clock
        self._new_id = new_id
        self._price_waiting = price_waiting

    async def create(
        self,
        session: AsyncSession,
        model: str,
        currency: str,
        prices: Prices,
        *,
        valid_from: datetime | None,
        created_by: str | None,
    ) -> RateCard:
        """A card in force from `valid_from` (None: now) on. Raises `Conflict` where usage from then on has been priced
        already, so that what was charged always follows from the cards; and where there is a card of that moment.
        """
        await repository.hold_prices(session, to_change_them=True)
        now = self._clock.now()
        card = RateCard(
            id=self._new_id("rate"),
            model=model,
            currency=currency,
            valid_from=valid_from or now,
            input_price_per_million_tokens=prices.input,
            cached_input_price_per_million_tokens=prices.cached_input,
            output_price_per_million_tokens=prices.output,
        )
        latest = await repository.latest_priced_at(session, model, currency)
        if latest is not None and latest >= card.valid_from:
            raise Conflict(
                f"usage of {model} up to {latest.isoformat()} has been priced already",
                hint="choose a later valid_from; correct past charges with an adjustment",
            )
        if not await repository.add_rate_card(session, card, created_at=now, created_by=created_by):
            raise Conflict(f"there is a rate card of {model} in {currency} from {card.valid_from.isoformat()} on")
        if card.valid_from <= now + timedelta(minutes=1):
            await self._price_waiting(session)
        return card

    async def withdraw(self, session: AsyncSession, rate_card_id: str) -> None:
        """Deletes a card that is not in force yet. Raises `NotFound`, `Conflict`."""
        await repository.hold_prices(session, to_change_them=True)
        card = await self.get(session, rate_card_id)
        if card.valid_from <= self._clock.now():
            raise Conflict("this rate card is or was in force and stays", hint="create a new one that supersedes it")
        await repository.delete_rate_card(session, rate_card_id)

    async def get(self, session: AsyncSession, rate_card_id: str) -> RateCard:
        """The card. Raises `NotFound`."""
        card = await repository.rate_card(session, rate_card_id)
        if card is None:
            raise NotFound(f"there is no rate card '{rate_card_id}'")
        return card

    async def page(
        self, session: AsyncSession, request: PageRequest, *, model: str | None, currency: str | None, history: bool
    ) -> list[RateCard]:
        """The cards in force now, or with `history` all, past and future too; one more than the page if there are."""
        if history:
            models = None if model is None else [model]
            return await repository.rate_cards(
                session, models=models, currency=currency, before_id=request.cursor, limit=request.limit + 1
            )
        return await repository.current_rate_cards(
            session,
            self._clock.now(),
            model=model,
            currency=currency,
            before_id=request.cursor,
            limit=request.limit + 1,
        )
