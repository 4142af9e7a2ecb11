"""`/api/v1/rate-cards`: what models cost."""

from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Path, Query

from cloudcrest.billing.schemas import CreateRateCard, Currency, Identifier, ModelName, RateCardView, moment, price
from cloudcrest.billing.service.rate_cards import Prices, RateCards
from cloudcrest.billing.views import view_card
from cloudcrest.identity.http import CallerDep
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep

CardPath = Annotated[Identifier, Path(examples=["rate_01k9zq3v5e8m2n4p6r8t0w2y4z"])]


def router(service: RateCards) -> APIRouter:
    """The routes of rate cards."""
    routes = APIRouter(prefix="/rate-cards", tags=["billing"], responses=responses(401))

    @routes.get("", operation_id="list_rate_cards", summary="List prices")
    async def list_rate_cards(
        *,
        session: SessionDep,
        caller: CallerDep,  # noqa: ARG001 - prices are for everyone who is known
        page: PageDep,
        model: Annotated[ModelName | None, Query(description="Only of this model")] = None,
        currency: Annotated[Currency | None, Query(description="Only in this currency")] = None,
        history: Annotated[bool, Query(description="Also what is past or to come, not just what holds now")] = False,
    ) -> Page[RateCardView]:
        """The prices that hold now, per million tokens."""
        cards = await service.page(session, page, model=model, currency=currency, history=history)
        return page.page([view_card(card) for card in cards], [card.id for card in cards])

    @routes.get("/{rate_card_id}", operation_id="get_rate_card", summary="Show a rate card", responses=responses(404))
    async def get_rate_card(
        session: SessionDep,
        caller: CallerDep,  # noqa: ARG001 - prices are for everyone who is known
        rate_card_id: CardPath,
    ) -> RateCardView:
        """One rate card, also one that no longer holds."""
        return view_card(await service.get(session, rate_card_id))

    @routes.post(
        "",
        operation_id="create_rate_card",
        summary="Set prices from a moment on",
        status_code=201,
        responses=responses(400, 403, 409),
    )
    async def create_rate_card(session: SessionDep, caller: CallerDep, body: CreateRateCard) -> RateCardView:
        """A new rate card, for operators; it supersedes the one before from its moment on. Waiting usage is priced."""
        caller.require_operator()
        valid_from = None if body.valid_from is None else moment(body.valid_from, "body.valid_from")
        card = await service.create(
            session, body.model, body.currency, _prices(body), valid_from=valid_from, created_by=caller.id
        )
        return view_card(card)

    @routes.delete(
        "/{rate_card_id}",
        operation_id="withdraw_rate_card",
        summary="Withdraw prices that do not hold yet",
        status_code=204,
        responses=responses(403, 404, 409),
    )
    async def withdraw_rate_card(session: SessionDep, caller: CallerDep, rate_card_id: CardPath) -> None:
        """Deletes a rate card whose moment is still to come, for operators."""
        caller.require_operator()
        await service.withdraw(session, rate_card_id)

    return routes


def _prices(body: CreateRateCard) -> Prices:
    cached = body.cached_input_price_per_million_tokens or body.input_price_per_million_tokens
    return Prices(
        input=price(body.input_price_per_million_tokens, "input_price_per_million_tokens"),
        cached_input=price(cached, "cached_input_price_per_million_tokens"),
        output=price(body.output_price_per_million_tokens, "output_price_per_million_tokens"),
        cache_write=_price(body.cache_write_price_per_million_tokens, "cache_write_price_per_million_tokens"),
        batch_input=_price(body.batch_input_price_per_million_tokens, "batch_input_price_per_million_tokens"),
        batch_cached_input=_price(
            body.batch_cached_input_price_per_million_tokens, "batch_cached_input_price_per_million_tokens"
        ),
        batch_output=_price(body.batch_output_price_per_million_tokens, "batch_output_price_per_million_tokens"),
        characters=_price(body.price_per_million_characters, "price_per_million_characters"),
        audio=_price(body.price_per_audio_second, "price_per_audio_second"),
        image=_price(body.price_per_image, "price_per_image"),
        accelerator=_price(body.price_per_accelerator_second, "price_per_accelerator_second"),
        cpu=_price(body.price_per_cpu_second, "price_per_cpu_second"),
    )


def _price(text: str | None, name: str) -> Decimal | None:
    return None if text is None else price(text, name)
