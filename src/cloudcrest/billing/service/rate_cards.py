"""Rate cards: made by operators, read by all, never changed once in force; a newer one supersedes."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing import repository
from cloudcrest.billing.api import RATE_CARD_KIND, RateCard, RateCardsDocument
from cloudcrest.billing.pricing import card_in_force
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.infra.publication import publish, published_ids
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, NotFound
from cloudcrest.kernel.ids import NewId

Defer = Callable[[AsyncSession], Awaitable[None]]
"""Asks, inside the transaction, for waiting usage to be priced once it is committed."""


class Prices(msgspec.Struct, frozen=True):
    """What a card says: per million tokens or characters, per second, per image. None: its default."""

    input: Decimal
    cached_input: Decimal
    output: Decimal
    cache_write: Decimal | None = None
    batch_input: Decimal | None = None
    batch_cached_input: Decimal | None = None
    batch_output: Decimal | None = None
    characters: Decimal | None = None
    audio: Decimal | None = None
    image: Decimal | None = None
    accelerator: Decimal | None = None
    cpu: Decimal | None = None


async def publish_cards(session: AsyncSession, model: str, currency: str, now: datetime) -> None:
    """Tells gateways what a model costs: the card in force and those to come."""
    cards = await repository.rate_cards(session, models=[model], currency=currency)
    present = card_in_force(cards, now)
    known = sorted(
        (card for card in cards if present is None or card.valid_from >= present.valid_from),
        key=lambda card: card.valid_from,
    )
    document = RateCardsDocument(model, currency, tuple(known)) if known else None
    await publish(session, RATE_CARD_KIND, _document_id(model, currency), document)


async def publish_missing_cards(session: AsyncSession, now: datetime) -> None:
    """Tells gateways of what they were not told of: cards that are older than this kind of document."""
    there = await published_ids(session, RATE_CARD_KIND)
    priced = {(card.model, card.currency) for card in await repository.rate_cards(session)}
    for model, currency in sorted(priced):
        if _document_id(model, currency) not in there:
            await publish_cards(session, model, currency, now)


def _document_id(model: str, currency: str) -> str:
    return f"{currency} {model}"


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
            cache_write_price_per_million_tokens=prices.cache_write,
            batch_input_price_per_million_tokens=prices.batch_input,
            batch_cached_input_price_per_million_tokens=prices.batch_cached_input,
            batch_output_price_per_million_tokens=prices.batch_output,
            price_per_million_characters=prices.characters,
            price_per_audio_second=prices.audio,
            price_per_image=prices.image,
            price_per_accelerator_second=prices.accelerator,
            price_per_cpu_second=prices.cpu,
        )
        latest = await repository.latest_priced_at(session, model, currency)
        if latest is not None and latest >= card.valid_from:
            raise Conflict(
                f"usage of {model} up to {latest.isoformat()} has been priced already",
                hint="choose a later valid_from; correct past charges with an adjustment",
            )
        if not await repository.add_rate_card(session, card, created_at=now, created_by=created_by):
            raise Conflict(f"there is a rate card of {model} in {currency} from {card.valid_from.isoformat()} on")
        await publish_cards(session, model, currency, now)
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
        await publish_cards(session, card.model, card.currency, self._clock.now())

    async def per_accelerator_second(
        self, session: AsyncSession, types: Sequence[str]
    ) -> dict[str, dict[str, Decimal]]:
        """What a second of an accelerator costs now, by type and then by currency. Implements `AcceleratorPrices`."""
        models = {f"compute/{type_id}": type_id for type_id in types}
        cards: dict[tuple[str, str], list[RateCard]] = {}
        for card in await repository.rate_cards(session, models=models):
            cards.setdefault((card.model, card.currency), []).append(card)
        prices: dict[str, dict[str, Decimal]] = {}
        for (model, currency), known in sorted(cards.items()):
            card_now = card_in_force(known, self._clock.now())
            if card_now is not None and card_now.price_per_accelerator_second is not None:
                prices.setdefault(models[model], {})[currency] = card_now.price_per_accelerator_second
        return prices

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
