"""The rules of nodes: what is kept of a region's report, and what operators set."""

import hashlib
from collections.abc import Sequence
from datetime import timedelta

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.compute.accelerator_types.service import AcceleratorTypes
from cloudcrest.compute.accelerators.detect import MAX_PER_NODE
from cloudcrest.compute.accelerators.given_out import given_out
from cloudcrest.compute.accelerators.naming import TypeIndex
from cloudcrest.compute.api import NODE_KIND, RACK_KIND, NodeSettings, NodeStatus
from cloudcrest.compute.nodes import repository
from cloudcrest.compute.nodes.merge import named_accelerators, node_of
from cloudcrest.compute.nodes.records import KnownNode, NodeState, Rack
from cloudcrest.compute.scheduler.model import Node
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.infra.publication import publish
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, NotFound
from cloudcrest.kernel.ids import NewId
from cloudcrest.regions.api import Regions

MAX_NODES_PER_REGION = 8_000
"""With eight chips each, a report of so many is just within what a body may be."""
MAX_LABELS = 64
MAX_TAINTS = 32
MAX_REASON_CHARACTERS = 1_000
FORGET_AFTER = timedelta(days=7)
"""A node that is gone so long and of which nothing is set is forgotten: a cluster that grows and shrinks makes many."""


class NodeChange(msgspec.Struct, frozen=True):
    """What an operator asks for; `UNSET`: as it is. `labels` are added, those with None are taken away."""

    labels: dict[str, str | None] | msgspec.UnsetType = msgspec.UNSET
    taints: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    zone: str | msgspec.UnsetType | None = msgspec.UNSET
    rack: str | msgspec.UnsetType | None = msgspec.UNSET
    power_watts: int | msgspec.UnsetType | None = msgspec.UNSET
    is_cordoned: bool | msgspec.UnsetType = msgspec.UNSET
    is_draining: bool | msgspec.UnsetType = msgspec.UNSET
    reserved_cpu_milli: int | msgspec.UnsetType | None = msgspec.UNSET
    reserved_memory_bytes: int | msgspec.UnsetType | None = msgspec.UNSET


class SeenNode(msgspec.Struct, frozen=True):
    """A node as it is shown: with what it is to the scheduler, and how it is."""

    known: KnownNode
    node: Node
    state: NodeState


class NodeService:
    """Nodes and racks of every region."""

    def __init__(self, *, types: AcceleratorTypes, regions: Regions, clock: Clock, new_id: NewId) -> None:
        self._types = types
        self._regions = regions
        self._clock = clock
        self._new_id = new_id

    async def record(self, session: AsyncSession, region: str, statuses: Sequence[NodeStatus]) -> None:
        """Keeps a region's report of all its nodes. Raises `InvalidInput` for one that is too long."""
        if len(statuses) > MAX_NODES_PER_REGION:
            raise InvalidInput(f"a region has at most {MAX_NODES_PER_REGION} nodes", param="nodes")
        now = self._clock.now()
        known = {node.node_id: node for node in await repository.reported(session, region)}
        # The same node twice would break the insert; the last one said counts.
        present = {status.facts.id: _trimmed(status) for status in statuses}
        fresh, changed = [], []
        for status in present.values():
            digest = hashlib.sha256(msgspec.json.encode(status)).hexdigest()
            before = known.get(status.facts.id)
            if before is None:
                fresh.append((self._new_id("node"), status, digest))
            elif before.status_sha256 != digest or before.gone_since is not None:
                changed.append((before.id, status, digest))
        if fresh or changed:
            news = [each for _, status, _ in (*fresh, *changed) for each in status.facts.accelerators]
            await self._types.learn(session, news)
            types = TypeIndex(await self._types.all(session))
            added = [(node_id, _report(status, digest, types)) for node_id, status, digest in fresh]
            await repository.add_all(session, region, added, now)
            for node_id, status, digest in changed:
                await repository.set_report(session, node_id, _report(status, digest, types), now)
        gone = [node.id for name, node in known.items() if name not in present and node.gone_since is None]
        await repository.set_gone(session, gone, now)
        await repository.forget(session, region, now - FORGET_AFTER)

    async def get(self, session: AsyncSession, node_id: str) -> SeenNode:
        """One node. Raises `NotFound`."""
        return (await self._seen(session, [await self._find(session, node_id)]))[0]

    async def page(self, session: AsyncSession, request: PageRequest, *, region: str | None) -> list[SeenNode]:
        """The nodes of a page, newest first, with one more than the page when there are more."""
        return await self._seen(session, await repository.page(session, request, region=region))

    async def zones_by_region(self, session: AsyncSession) -> dict[str, list[str]]:
        """The zones that each region's nodes are in. Implements `regions.api.Zones`."""
        found: dict[str, list[str]] = {}
        for region, zone in await repository.zones(session):
            found.setdefault(region, []).append(zone)
        return found

    async def change(self, session: AsyncSession, node_id: str, change: NodeChange) -> SeenNode:
        """A changed node; its region hears of it. Raises `NotFound`, `InvalidInput`."""
        known = await self._find(session, node_id, for_update=True)
        settings = changed_settings(known.settings, change)
        if settings != known.settings:
            known = msgspec.structs.replace(known, settings=settings, changed_at=self._clock.now())
            await repository.save_settings(session, node_id, settings, known.changed_at)
            await publish(session, NODE_KIND, known.id, known.document(), region=known.region)
        return (await self._seen(session, [known]))[0]

    async def remove(self, session: AsyncSession, node_id: str) -> None:
        """Forgets a node that is gone, and what was set of it. Raises `NotFound`, `Conflict`."""
        known = await self._find(session, node_id, for_update=True)
        if known.gone_since is None:
            raise Conflict("this node is still reported by its region", hint="drain it and stop its agent first")
        await repository.remove(session, node_id)
        await publish(session, NODE_KIND, known.id, None, region=known.region)

    async def page_racks(self, session: AsyncSession, request: PageRequest, *, region: str | None) -> list[Rack]:
        """The racks of a page, newest first, with one more than the page when there are more."""
        return await repository.page_racks(session, request, region=region)

    async def create_rack(
        self, session: AsyncSession, region: str, name: str, power_limit_watts: int, *, zone: str = ""
    ) -> Rack:
        """A limit to a rack's power. Raises `InvalidInput` (region), `Conflict` where it has one."""
        if not await self._regions.exists(session, region):
            known = ", ".join((await self._regions.list_ids(session))[:5])
            raise InvalidInput(f"there is no region '{region}'", param="body.region", hint=f"there is {known}")
        rack = Rack(self._new_id("rack"), region, zone, name, power_limit_watts, self._clock.now())
        if not await repository.add_rack(session, rack):
            raise Conflict(f"rack '{name}' of region '{region}' has a limit already", hint="change that one")
        await publish(session, RACK_KIND, rack.id, rack.document(), region=region)
        return rack

    async def get_rack(self, session: AsyncSession, rack_id: str) -> Rack:
        """One rack. Raises `NotFound`."""
        rack = await repository.find_rack(session, rack_id)
        if rack is None:
            raise NotFound(f"there is no rack '{rack_id}'")
        return rack

    async def change_rack(self, session: AsyncSession, rack_id: str, power_limit_watts: int) -> Rack:
        """A rack with another limit. Raises `NotFound`."""
        rack = await self.get_rack(session, rack_id)
        rack = msgspec.structs.replace(rack, power_limit_watts=power_limit_watts)
        await repository.set_rack_limit(session, rack_id, power_limit_watts)
        await publish(session, RACK_KIND, rack.id, rack.document(), region=rack.region)
        return rack

    async def remove_rack(self, session: AsyncSession, rack_id: str) -> None:
        """Takes a rack's limit away. Raises `NotFound`."""
        rack = await self.get_rack(session, rack_id)
        await repository.remove_rack(session, rack_id)
        await publish(session, RACK_KIND, rack.id, None, region=rack.region)

    async def _find(self, session: AsyncSession, node_id: str, *, for_update: bool = False) -> KnownNode:
        known = await repository.find(session, node_id, for_update=for_update)
        if known is None:
            raise NotFound(f"there is no node '{node_id}'")
        return known

    async def _seen(self, session: AsyncSession, nodes: Sequence[KnownNode]) -> list[SeenNode]:
        types = TypeIndex(await self._types.all(session))
        connected = await self._regions.connected_ids(session)
        return [_seen(node, types, is_connected=node.region in connected) for node in nodes]


def changed_settings(before: NodeSettings, change: NodeChange) -> NodeSettings:
    """The settings after a change. Raises `InvalidInput` where there are too many."""
    values = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not msgspec.UNSET}
    if isinstance(change.labels, dict):
        merged = {**before.labels, **change.labels}
        values["labels"] = {name: value for name, value in sorted(merged.items()) if value is not None}
        if len(values["labels"]) > MAX_LABELS:
            raise InvalidInput(f"a node has at most {MAX_LABELS} labels", param="body.labels")
    if isinstance(change.taints, tuple):
        values["taints"] = tuple(sorted({*change.taints}))
    return msgspec.structs.replace(before, **values)


def _seen(known: KnownNode, types: TypeIndex, *, is_connected: bool) -> SeenNode:
    facts = msgspec.structs.replace(known.status.facts, accelerators=named_accelerators(known.status.facts, types))
    status = msgspec.structs.replace(known.status, facts=facts)
    named = msgspec.structs.replace(known, status=status)
    return SeenNode(named, node_of(facts, known.document(), types), known.state(is_connected=is_connected))


def _report(status: NodeStatus, digest: str, types: TypeIndex) -> repository.Report:
    offered = given_out(named_accelerators(status.facts, types))
    return repository.Report(status, digest, offered[0].type if offered else None, len(offered))


def _trimmed(status: NodeStatus) -> NodeStatus:
    """A report of bounded size."""
    facts = status.facts
    trimmed = msgspec.structs.replace(
        facts,
        reason=None if facts.reason is None else facts.reason[:MAX_REASON_CHARACTERS],
        labels=dict(sorted(facts.labels.items())[:MAX_LABELS]),
        accelerators=facts.accelerators[:MAX_PER_NODE],
    )
    return msgspec.structs.replace(status, facts=trimmed)
