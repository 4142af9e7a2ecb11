"""Placement in the region service: the live placer, and what it is told of what operators have set."""

from collections.abc import Sequence
from functools import partial

import msgspec

from cloudcrest.bootstrap.settings import RegionSettings
from cloudcrest.compute.accelerators.known import known_types
from cloudcrest.compute.accelerators.naming import TypeIndex
from cloudcrest.compute.api import AcceleratorType, Fabric, NodeDocument, NodeFacts, RackDocument
from cloudcrest.compute.nodes.merge import node_of, rack_watts
from cloudcrest.compute.placement.placer import LivePlacer, Rules
from cloudcrest.compute.scheduler.model import Node
from cloudcrest.compute.scheduler.packing.index import PackingIndex
from cloudcrest.kernel.clock import SystemClock


class Published(msgspec.Struct, frozen=True):
    """What the control plane has published of a region's nodes. Without any types: those that Cloudcrest knows."""

    nodes: Sequence[NodeDocument] = ()
    racks: Sequence[RackDocument] = ()
    types: Sequence[AcceleratorType] = ()


def make_placer(settings: RegionSettings, fabric: Fabric) -> LivePlacer:
    """The region's placer, for replicas and jobs. `run` has it go on until it is cancelled."""
    settings.placement_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return LivePlacer(
        fabric,
        PackingIndex(),
        rules(Published()),
        clock=SystemClock(),
        settings=settings.placement,
        history_path=settings.placement_folder / "shapes.json",
    )


def rules(published: Published) -> Rules:
    """What the placer goes by."""
    set_of = {document.node_id: document for document in published.nodes}
    return Rules(
        node_of=partial(_node_of, set_of, TypeIndex(published.types or known_types())),
        draining=frozenset(document.node_id for document in published.nodes if document.is_draining),
        rack_watts=rack_watts(published.racks),
    )


def _node_of(set_of: dict[str, NodeDocument], types: TypeIndex, facts: NodeFacts) -> Node:
    return node_of(facts, set_of.get(facts.id), types)
