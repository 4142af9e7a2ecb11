"""From a node's facts and its operator's settings to what the scheduler places on. Pure."""

import math
from collections.abc import Iterable, Mapping

import msgspec

from cloudcrest.compute.accelerators.given_out import given_out
from cloudcrest.compute.accelerators.naming import TypeIndex
from cloudcrest.compute.api import AcceleratorFacts, NodeFacts, NodeSettings, RackDocument
from cloudcrest.compute.scheduler.model import Node
from cloudcrest.kernel.units import GIB

ZONE_LABEL = "cloudcrest.io/zone"
RACK_LABEL = "cloudcrest.io/rack"
ACCELERATOR_LABEL = "cloudcrest.io/accelerator"
"""Labels that every node has where it has a zone, a rack or accelerators to give out."""
_RESERVED_LEAST_BYTES = GIB
_RESERVED_SHARE = 0.05
_RESERVED_MOST_SHARE = 0.25


def named_accelerators(facts: NodeFacts, types: TypeIndex) -> tuple[AcceleratorFacts, ...]:
    """A node's accelerators with the types of the catalog as it is now: the node may know an older one."""
    return tuple(
        msgspec.structs.replace(each, type=types.id_of(each.family, each.name, each.memory_bytes))
        for each in facts.accelerators
    )


def node_of(
    facts: NodeFacts,
    settings: NodeSettings | None,
    types: TypeIndex,
    prices: Mapping[str, float] | None = None,
) -> Node:
    """What the scheduler may place on. `prices`: of an accelerator-second, by type, in whatever unit they all have;
    where others have one, a type without is no bargain and comes last.
    """
    settings = settings or NodeSettings()
    offered = given_out(named_accelerators(facts, types))
    type_id = offered[0].type if offered else None
    labels = labels_of(facts, settings, type_id)
    known = types.find(type_id) if type_id else None
    return Node(
        id=facts.id,
        cpu_milli=max(0, facts.cpu_milli - (settings.reserved_cpu_milli or 0)),
        memory_bytes=max(0, facts.memory_bytes - reserved_memory_bytes(facts, settings)),
        accelerator_type=type_id,
        accelerators=len(offered),
        accelerator_memory_bytes=min((each.memory_bytes for each in offered), default=0),
        accelerator_watts=(known.power_watts or 0) if known else 0,
        power_watts=settings.power_watts or 0,
        disk_bytes=facts.disk_bytes,
        price_per_accelerator_second=prices.get(type_id, math.inf) if type_id and prices else 0.0,
        zone=labels.get(ZONE_LABEL, ""),
        rack=labels.get(RACK_LABEL, ""),
        labels=labels,
        taints=frozenset(settings.taints),
        is_schedulable=facts.is_ready and not settings.is_cordoned and not settings.is_draining,
    )


def labels_of(facts: NodeFacts, settings: NodeSettings, accelerator_type: str | None) -> dict[str, str]:
    """All of a node's labels: what it was started with, what was set, and its zone, rack and accelerators."""
    named = {ZONE_LABEL: settings.zone, RACK_LABEL: settings.rack, ACCELERATOR_LABEL: accelerator_type}
    own = {label: value for label, value in named.items() if value is not None}
    return {**facts.labels, **settings.labels, **own}


def reserved_memory_bytes(facts: NodeFacts, settings: NodeSettings) -> int:
    """What the system keeps: as it is set, else a twentieth and at least 1 GiB, but of a small machine a quarter."""
    if settings.reserved_memory_bytes is not None:
        return settings.reserved_memory_bytes
    most = int(facts.memory_bytes * _RESERVED_MOST_SHARE)
    return min(most, max(_RESERVED_LEAST_BYTES, int(facts.memory_bytes * _RESERVED_SHARE)))


def rack_watts(racks: Iterable[RackDocument]) -> dict[str, int]:
    """What racks may draw, by the name that the scheduler has for them."""
    return {f"{rack.zone}/{rack.name}": rack.power_limit_watts for rack in racks}
