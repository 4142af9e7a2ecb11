"""Reads and writes nodes and racks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.compute.api import NodeSettings, NodeStatus
from cloudcrest.compute.nodes.merge import ZONE_LABEL
from cloudcrest.compute.nodes.records import KnownNode, Rack
from cloudcrest.compute.nodes.tables import NodeRow, RackRow
from cloudcrest.infra.http.paging import PageRequest

_UNSET: dict[str, Any] = msgspec.to_builtins(NodeSettings())


class ReportedNode(msgspec.Struct, frozen=True):
    """What is kept of a node's last report: enough to see what is new."""

    id: str
    node_id: str
    status_sha256: str
    gone_since: datetime | None


async def reported(session: AsyncSession, region: str) -> list[ReportedNode]:
    """A region's nodes; no other report of it is kept until the transaction ends."""
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"nodes/{region}", 0))))
    columns = (NodeRow.id, NodeRow.node_id, NodeRow.status_sha256, NodeRow.gone_since)
    rows = await session.execute(select(*columns).where(NodeRow.region == region))
    return [ReportedNode(*row) for row in rows]


class Report(msgspec.Struct, frozen=True):
    """A node's report as it is kept: with its hash, and what is counted of it."""

    status: NodeStatus
    status_sha256: str
    accelerator_type: str | None
    accelerators: int

    def values(self) -> dict[str, Any]:
        """The columns."""
        return {
            "status": msgspec.to_builtins(self.status, str_keys=True),
            "status_sha256": self.status_sha256,
            "is_ready": self.status.facts.is_ready,
            "accelerator_type": self.accelerator_type,
            "accelerators": self.accelerators,
            "allocated_milli": sum(self.status.allocated.accelerators_milli.values()),
        }


async def add_all(session: AsyncSession, region: str, reports: Sequence[tuple[str, Report]], now: datetime) -> None:
    """Adds nodes, each with its id."""
    if not reports:
        return
    rows = [
        {
            "id": node_id,
            "region": region,
            "node_id": report.status.facts.id,
            "settings": _UNSET,
            "created_at": now,
            "changed_at": now,
            **report.values(),
        }
        for node_id, report in reports
    ]
    await session.execute(insert(NodeRow), rows)


async def set_report(session: AsyncSession, node_id: str, report: Report, now: datetime) -> None:
    """Keeps what was reported of a node, which is there."""
    values = {**report.values(), "changed_at": now, "gone_since": None}
    await session.execute(update(NodeRow).where(NodeRow.id == node_id).values(values))


async def look_again(session: AsyncSession) -> None:
    """The next report of every node is kept, whatever it says: types are called otherwise now."""
    await session.execute(update(NodeRow).values(status_sha256=""))


async def set_gone(session: AsyncSession, ids: Sequence[str], now: datetime) -> None:
    """Notes that nodes are no longer reported."""
    if ids:
        await session.execute(update(NodeRow).where(NodeRow.id.in_(ids)).values(gone_since=now, changed_at=now))


async def forget(session: AsyncSession, region: str, gone_before: datetime) -> None:
    """Forgets nodes that were gone by then and of which nothing is set."""
    await session.execute(
        delete(NodeRow).where(NodeRow.region == region, NodeRow.gone_since < gone_before, NodeRow.settings == _UNSET)
    )


async def find(session: AsyncSession, node_id: str, *, for_update: bool = False) -> KnownNode | None:
    """One node; `for_update` holds it until the transaction ends."""
    statement = select(NodeRow).where(NodeRow.id == node_id)
    row = (await session.execute(statement.with_for_update() if for_update else statement)).scalar_one_or_none()
    return None if row is None else _node(row)


async def page(session: AsyncSession, request: PageRequest, *, region: str | None) -> list[KnownNode]:
    """The nodes of a page, newest first, with one more than the page when there are more."""
    statement = select(NodeRow) if region is None else select(NodeRow).where(NodeRow.region == region)
    return [_node(row) for row in await session.scalars(request.apply(statement, NodeRow.id))]


async def save_settings(session: AsyncSession, node_id: str, settings: NodeSettings, now: datetime) -> None:
    """Writes what is set of a node."""
    values = {"settings": msgspec.to_builtins(settings), "changed_at": now}
    await session.execute(update(NodeRow).where(NodeRow.id == node_id).values(**values))


async def remove(session: AsyncSession, node_id: str) -> None:
    """Forgets a node and what was set of it."""
    await session.execute(delete(NodeRow).where(NodeRow.id == node_id))


async def count_accelerators(session: AsyncSession, types: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """Type, region, how many of it nodes that are ready give out, and how many thousandths are taken."""
    columns = (NodeRow.accelerator_type, NodeRow.region)
    sums = (func.sum(NodeRow.accelerators), func.sum(NodeRow.allocated_milli))
    statement = select(*columns, *sums).where(NodeRow.accelerator_type.in_(types), NodeRow.gone_since.is_(None))
    rows = await session.execute(statement.where(NodeRow.is_ready).group_by(*columns))
    return [(str(type_id), region, int(total), int(taken)) for type_id, region, total, taken in rows]


async def zones(session: AsyncSession) -> list[tuple[str, str]]:
    """Region and zone, each once, of the nodes that are not gone; sorted."""
    facts = NodeRow.status["facts"]["labels"][ZONE_LABEL].as_string()
    labels = NodeRow.settings["labels"][ZONE_LABEL].as_string()
    zone = func.coalesce(NodeRow.settings["zone"].as_string(), labels, facts, "").label("zone")
    statement = select(NodeRow.region, zone).where(NodeRow.gone_since.is_(None)).distinct()
    return sorted((region, name) for region, name in await session.execute(statement) if name)


async def find_rack(session: AsyncSession, rack_id: str) -> Rack | None:
    """One rack."""
    row = await session.get(RackRow, rack_id, populate_existing=True)
    return None if row is None else _rack(row)


async def page_racks(session: AsyncSession, request: PageRequest, *, region: str | None) -> list[Rack]:
    """The racks of a page, newest first, with one more than the page when there are more."""
    statement = select(RackRow) if region is None else select(RackRow).where(RackRow.region == region)
    return [_rack(row) for row in await session.scalars(request.apply(statement, RackRow.id))]


async def add_rack(session: AsyncSession, rack: Rack) -> bool:
    """Adds a rack; False where its zone has one of its name."""
    statement = insert(RackRow).values(msgspec.structs.asdict(rack))
    statement = statement.on_conflict_do_nothing(index_elements=["region", "zone", "name"])
    return await session.scalar(statement.returning(RackRow.id)) is not None


async def set_rack_limit(session: AsyncSession, rack_id: str, power_limit_watts: int) -> None:
    """Changes what a rack's nodes may draw."""
    statement = update(RackRow).where(RackRow.id == rack_id).values(power_limit_watts=power_limit_watts)
    await session.execute(statement)


async def remove_rack(session: AsyncSession, rack_id: str) -> None:
    """Removes a rack's limit."""
    await session.execute(delete(RackRow).where(RackRow.id == rack_id))


def _status(document: dict[str, Any]) -> NodeStatus:
    return msgspec.convert(document, NodeStatus, strict=False)


def _node(row: NodeRow) -> KnownNode:
    return KnownNode(
        id=row.id,
        region=row.region,
        node_id=row.node_id,
        settings=msgspec.convert(row.settings, NodeSettings),
        status=_status(row.status),
        created_at=row.created_at,
        changed_at=row.changed_at,
        gone_since=row.gone_since,
    )


def _rack(row: RackRow) -> Rack:
    return Rack(row.id, row.region, row.zone, row.name, row.power_limit_watts, row.created_at)
