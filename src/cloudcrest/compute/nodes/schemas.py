"""What the management API says about nodes and racks."""

from datetime import datetime
from typing import Annotated

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from cloudcrest.compute.accelerators.given_out import given_out
from cloudcrest.compute.nodes.merge import reserved_memory_bytes
from cloudcrest.compute.nodes.records import NodeState, Rack
from cloudcrest.compute.nodes.service import MAX_LABELS, MAX_TAINTS, NodeChange, SeenNode

_MAX_WATTS = 2**31 - 1
_MAX_BYTES = 2**53
_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$"

LabelName = Annotated[str, Field(pattern=_NAME)]
LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{0,63}$")]
Name = Annotated[str, Field(pattern=_NAME)]
Watts = Annotated[int, Field(ge=0, le=_MAX_WATTS)]


class NodeAccelerators(BaseModel):
    """What a node gives out, or has of another kind and does not."""

    type: str = Field(examples=["nvidia-h100-80gb"])
    family: str = Field(examples=["nvidia"])
    name: str = Field(examples=["NVIDIA H100 80GB HBM3"], description="As the vendor's tool has it")
    count: int
    memory_bytes: int = Field(description="Of one: the least of them")
    allocated_milli: int = Field(default=0, description="Thousandths of one that are given out, of all together")


class NodeView(BaseModel):
    """A node. `labels`, `zone` and `rack` are those that hold; `set_labels` are the operator's."""

    id: str = Field(examples=["node_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    node: str = Field(examples=["local"], description="What its region calls it")
    region: str = Field(examples=["local"])
    state: NodeState
    reason: str | None = None
    zone: str = Field(examples=["eu-west-1a"], description="Empty: none")
    rack: str = Field(examples=["r12"], description="Empty: none")
    cpu_model: str
    cpu_milli: int = Field(description="That may be given out, in thousandths of a core")
    cpu_allocated_milli: int
    memory_bytes: int = Field(description="That may be given out")
    memory_allocated_bytes: int
    reserved_memory_bytes: int
    reserved_cpu_milli: int
    disk_bytes: int = Field(description="That jobs may be promised in all; 0: not known")
    disk_allocated_bytes: int
    accelerators: NodeAccelerators | None = None
    other_accelerators: list[NodeAccelerators] = Field(
        default=[], description="Of further kinds: a node gives out the one that has most memory in all"
    )
    processes: int
    labels: dict[str, str]
    set_labels: dict[str, str]
    taints: list[str]
    is_cordoned: bool
    is_draining: bool
    power_watts: int | None = Field(description="At rest, as it was set")
    created_at: datetime
    changed_at: datetime
    gone_since: datetime | None = Field(description="Since when its region no longer reports it")


class ChangeNode(BaseModel):
    """What to change; what is left out stays. null gives back what the node was started with, or the default."""

    model_config = ConfigDict(extra="forbid")

    labels: dict[LabelName, LabelValue | None] | None = Field(
        default=None, max_length=MAX_LABELS, description="Added; null takes one away", examples=[{"team": "search"}]
    )
    taints: list[Name] | None = Field(
        default=None,
        max_length=MAX_TAINTS,
        description="All of them: only work that tolerates each comes here",
        examples=[["experiments"]],
    )
    zone: Name | None = Field(default=None, examples=["eu-west-1a"])
    rack: Name | None = Field(default=None, examples=["r12"])
    power_watts: Watts | None = Field(default=None, description="What the node draws at rest", examples=[400])
    is_cordoned: bool | None = Field(default=None, description="It gets nothing new")
    is_draining: bool | None = Field(default=None, description="It gets nothing new, and what runs there moves away")
    reserved_cpu_milli: int | None = Field(default=None, ge=0, le=_MAX_WATTS, description="Not given out")
    reserved_memory_bytes: int | None = Field(default=None, ge=0, le=_MAX_BYTES, description="Not given out")

    def change(self) -> NodeChange:
        """Only what was said; of what cannot be null, null is not said."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        given = {
            name: value
            for name, value in given.items()
            if value is not None or name not in ("labels", "taints", "is_cordoned", "is_draining")
        }
        if "taints" in given:
            given["taints"] = tuple(given["taints"])
        return NodeChange(**given)


class RackView(BaseModel):
    """A rack whose nodes may draw so much together."""

    id: str = Field(examples=["rack_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    region: str = Field(examples=["local"])
    zone: str = Field(examples=["eu-west-1a"], description="Empty: its nodes are in none")
    name: str = Field(examples=["r12"])
    power_limit_watts: int = Field(examples=[40_000])
    created_at: datetime


class CreateRack(BaseModel):
    """A limit to the power of a rack. Its nodes say which rack they are in."""

    model_config = ConfigDict(extra="forbid")

    region: str = Field(max_length=64, examples=["local"])
    zone: Name | None = Field(default=None, examples=["eu-west-1a"], description="null: its nodes are in none")
    name: Name = Field(examples=["r12"])
    power_limit_watts: Watts = Field(examples=[40_000])


class ChangeRack(BaseModel):
    """Another limit."""

    model_config = ConfigDict(extra="forbid")

    power_limit_watts: Watts = Field(examples=[60_000])


def view(seen: SeenNode) -> NodeView:
    """A node as operators see it."""
    known, node, facts = seen.known, seen.node, seen.known.status.facts
    allocated = known.status.allocated
    document = known.document()
    offered = given_out(facts.accelerators)
    kinds: dict[tuple[str, str], NodeAccelerators] = {}
    for each in facts.accelerators:
        kind = kinds.get((each.family, each.type))
        if kind is None:
            kinds[each.family, each.type] = NodeAccelerators(
                type=each.type, family=each.family, name=each.name, count=1, memory_bytes=each.memory_bytes
            )
        else:
            kind.count += 1
            kind.memory_bytes = min(kind.memory_bytes, each.memory_bytes)
    first = kinds.pop((offered[0].family, offered[0].type)) if offered else None
    if first is not None:
        first.allocated_milli = sum(allocated.accelerators_milli.values())
    return NodeView(
        id=known.id,
        node=known.node_id,
        region=known.region,
        state=seen.state,
        reason=facts.reason,
        zone=node.zone,
        rack=node.rack,
        cpu_model=facts.cpu_model,
        cpu_milli=node.cpu_milli,
        cpu_allocated_milli=allocated.cpu_milli,
        memory_bytes=node.memory_bytes,
        memory_allocated_bytes=allocated.memory_bytes,
        reserved_memory_bytes=reserved_memory_bytes(facts, document),
        reserved_cpu_milli=known.settings.reserved_cpu_milli or 0,
        disk_bytes=facts.disk_room_bytes,
        disk_allocated_bytes=allocated.disk_bytes,
        accelerators=first,
        other_accelerators=list(kinds.values()),
        processes=allocated.processes,
        labels=dict(node.labels),
        set_labels=known.settings.labels,
        taints=sorted(node.taints),
        is_cordoned=known.settings.is_cordoned,
        is_draining=known.settings.is_draining,
        power_watts=known.settings.power_watts,
        created_at=known.created_at,
        changed_at=known.changed_at,
        gone_since=known.gone_since,
    )


def rack_view(rack: Rack) -> RackView:
    """A rack as operators see it."""
    return RackView(**msgspec.structs.asdict(rack))
