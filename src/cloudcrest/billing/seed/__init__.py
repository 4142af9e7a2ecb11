"""The prices a cloud starts with: `prices.json`. A model that has any card keeps its own.

They are per million tokens or characters, per second of sound, accelerators and processors, per image.
"""

from datetime import datetime
from decimal import Decimal
from importlib import resources

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing import repository
from cloudcrest.billing.api import RateCard
from cloudcrest.billing.service.rate_cards import publish_missing_cards
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.ids import NewId


class _ModelPrices(msgspec.Struct, frozen=True):
    model: str
    input: Decimal = Decimal(0)
    cached_input: Decimal = Decimal(0)
    output: Decimal = Decimal(0)
    characters: Decimal | None = None
    audio: Decimal | None = None
    image: Decimal | None = None
    accelerator: Decimal | None = None
    cpu: Decimal | None = None


class _Prices(msgspec.Struct, frozen=True):
    currency: str
    valid_from: datetime
    models: tuple[_ModelPrices, ...]


async def seed(session: AsyncSession, clock: Clock, new_id: NewId) -> None:
    """Adds the cards that are missing; again and again without effect."""
    text = resources.files(__name__).joinpath("prices.json").read_bytes()
    prices = msgspec.json.decode(text, type=_Prices)
    await repository.hold_prices(session, to_change_them=True)
    there = {
        card.model
        for card in await repository.rate_cards(
            session, models=[item.model for item in prices.models], currency=prices.currency
        )
    }
    for item in prices.models:
        if item.model in there:
            continue
        card = RateCard(
            id=new_id("rate"),
            model=item.model,
            currency=prices.currency,
            valid_from=prices.valid_from,
            input_price_per_million_tokens=item.input,
            cached_input_price_per_million_tokens=item.cached_input,
            output_price_per_million_tokens=item.output,
            price_per_million_characters=item.characters,
            price_per_audio_second=item.audio,
            price_per_image=item.image,
            price_per_accelerator_second=item.accelerator,
            price_per_cpu_second=item.cpu,
        )
        await repository.add_rate_card(session, card, created_at=clock.now(), created_by=None)
    await publish_missing_cards(session, clock.now())
