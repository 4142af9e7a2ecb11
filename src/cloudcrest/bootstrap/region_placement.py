"""Placement in the region service: the live placer, and what it is told of what operators have set."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from cloudcrest.billing.api import RateCardsDocument
from cloudcrest.billing.pricing import card_in_force
from cloudcrest.bootstrap.settings import RegionSettings
from cloudcrest.compute.accelerators.known import known_types
from cloudcrest.compute.accelerators.naming import TypeIndex
from cloudcrest.compute.api import AcceleratorType, Fabric, NodeDocument, RackDocument
from cloudcrest.compute.nodes.merge import node_of, rack_watts
from cloudcrest.compute.placement.placer import LivePlacer, Rules
from cloudcrest.compute.quotas.api import QuotaDocument
from cloudcrest.compute.scheduler.packing.index import PackingIndex
from cloudcrest.kernel.clock import SystemClock


class Published(msgspec.Struct, frozen=True):
    """What the control plane has published of a region's nodes. Without any types: those that Cloudcrest knows.

    `rates`: of all models; those of `compute/<accelerator type>` are looked at.
    """

    nodes: Sequence[NodeDocument] = ()
    racks: Sequence[RackDocument] = ()
    types: Sequence[AcceleratorType] = ()
    rates: Sequence[RateCardsDocument] = ()
    quotas: Sequence[QuotaDocument] = ()


def make_placer(settings: RegionSettings, fabric: Fabric) -> LivePlacer:
    """The region's placer, for replicas and jobs. `run` has it go on until it is cancelled."""
    settings.placement_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return LivePlacer(
        fabric,
        PackingIndex(),
        rules(Published(), SystemClock().now()),
        clock=SystemClock(),
        settings=settings.placement,
        history_path=settings.placement_folder / "shapes.json",
    )


def rules(published: Published, now: datetime) -> Rules:
    """What the placer goes by."""
    set_of = {document.node_id: document for document in published.nodes}
    types = TypeIndex(published.types or known_types())
    prices = accelerator_prices(published.rates, now)
    return Rules(
        node_of=lambda facts: node_of(facts, set_of.get(facts.id), types, prices),
        draining=frozenset(document.node_id for document in published.nodes if document.is_draining),
        rack_watts=rack_watts(published.racks),
        quotas=tuple(document.quota() for document in published.quotas),
    )


def accelerator_prices(rates: Iterable[RateCardsDocument], now: datetime) -> dict[str, float]:
    """What a second of an accelerator costs, by type, for who wants the cheapest: in the one currency in which most
    types have a price, as amounts in several cannot be held against each other.
    """
    by_currency: dict[str, dict[str, float]] = {}
    for document in rates:
        _, is_compute, type_id = document.model.partition("compute/")
        card = card_in_force(list(document.cards), now) if is_compute else None
        if card is not None and card.price_per_accelerator_second is not None:
            by_currency.setdefault(document.currency, {})[type_id] = float(card.price_per_accelerator_second)
    return max((by_currency[name] for name in sorted(by_currency)), key=len, default={})
