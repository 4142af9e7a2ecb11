"""Nodes: facts and settings made into what is placed on, and what is given out read from labels."""

import math

import httpx2
import msgspec
import pytest

from cloudcrest.compute.accelerators.known import known_types
from cloudcrest.compute.accelerators.naming import TypeIndex
from cloudcrest.compute.api import (
    AcceleratorFacts,
    NodeAllocation,
    NodeDocument,
    NodeFacts,
    NodeSettings,
    NodeStatus,
    ProcessStatus,
    RackDocument,
)
from cloudcrest.compute.nodes.allocated import allocations
from cloudcrest.compute.nodes.merge import node_of, rack_watts, reserved_memory_bytes
from cloudcrest.compute.nodes.reporter import REPORT_AT_LEAST_EVERY_SECONDS, NodeReporter
from cloudcrest.compute.nodes.service import NodeChange, changed_settings
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.errors import InvalidInput, Unavailable
from cloudcrest.kernel.units import GIB, MIB

TYPES = TypeIndex(known_types())
H100 = "NVIDIA H100 80GB HBM3"


def facts(*accelerators: AcceleratorFacts, gib: int = 512, is_ready: bool = True) -> NodeFacts:
    labels = {"cloudcrest.io/zone": "a", "disk": "ssd"}
    return NodeFacts("n1", "10.0.0.1", 64_000, gib * GIB, accelerators, labels, is_ready=is_ready)


def gpu(index: int, name: str = H100, mib: int = 81559) -> AcceleratorFacts:
    return AcceleratorFacts(index, "nvidia", "as-the-node-knew-it", name, mib * MIB)


def test_facts_alone_make_a_node() -> None:
    node = node_of(facts(gpu(0), gpu(1)), None, TYPES, {"nvidia-h100-80gb": 0.5})
    assert (node.accelerator_type, node.accelerators, node.accelerator_memory_bytes) == (
        "nvidia-h100-80gb",
        2,
        81559 * MIB,
    )
    assert (node.accelerator_watts, node.price_per_accelerator_second) == (700, 0.5)
    assert (node.zone, node.rack) == ("a", "")
    assert node.labels == {
        "cloudcrest.io/zone": "a",
        "disk": "ssd",
        "cloudcrest.io/accelerator": "nvidia-h100-80gb",
    }
    assert node.cpu_milli == 64_000
    assert node.memory_bytes == 512 * GIB - int(512 * GIB * 0.05)
    assert node.is_schedulable


def test_a_type_without_a_price_is_no_bargain() -> None:
    prices = {"nvidia-h100-80gb": 0.5}
    assert node_of(facts(gpu(0, "Tesla T4", 15360)), None, TYPES, prices).price_per_accelerator_second == math.inf
    assert node_of(facts(gpu(0)), None, TYPES).price_per_accelerator_second == 0.0
    assert node_of(facts(), None, TYPES, prices).price_per_accelerator_second == 0.0


def test_an_operators_settings_win() -> None:
    settings = NodeDocument(
        id="node_1",
        node_id="n1",
        labels={"disk": "hdd", "team": "search"},
        taints=("experiments",),
        zone="b",
        rack="r1",
        power_watts=400,
        reserved_cpu_milli=4_000,
        reserved_memory_bytes=12 * GIB,
    )
    node = node_of(facts(), settings, TYPES)
    assert (node.zone, node.rack, node.power_watts) == ("b", "r1", 400)
    assert (node.labels["disk"], node.labels["team"]) == ("hdd", "search")
    assert node.taints == {"experiments"}
    assert (node.cpu_milli, node.memory_bytes) == (60_000, 500 * GIB)
    assert (node.accelerator_type, node.accelerators, node.accelerator_watts) == (None, 0, 0)


@pytest.mark.parametrize("setting", ["is_cordoned", "is_draining"])
def test_what_is_cordoned_drained_or_not_ready_gets_nothing_new(setting: str) -> None:
    document = msgspec.structs.replace(NodeDocument(id="node_1", node_id="n1"), **{setting: True})
    assert not node_of(facts(), document, TYPES).is_schedulable
    assert not node_of(facts(is_ready=False), None, TYPES).is_schedulable


def test_the_system_keeps_a_share_of_a_small_machine() -> None:
    nothing = NodeDocument(id="", node_id="n1")
    assert reserved_memory_bytes(facts(gib=2), nothing) == GIB // 2
    assert reserved_memory_bytes(facts(gib=8), nothing) == GIB
    assert reserved_memory_bytes(facts(gib=100), nothing) == 5 * GIB


def test_racks_are_named_by_their_zones() -> None:
    racks = [RackDocument("r1", 40_000, "a"), RackDocument("r1", 20_000)]
    assert rack_watts(racks) == {"a/r1": 40_000, "/r1": 20_000}


def test_labels_are_merged_and_taints_replaced() -> None:
    before = NodeSettings(labels={"a": "1", "b": "2"}, taints=("x",), zone="z")
    after = changed_settings(before, NodeChange(labels={"b": None, "c": "3"}, taints=("z", "y", "z"), zone=None))
    assert after == NodeSettings(labels={"a": "1", "c": "3"}, taints=("y", "z"), zone=None)
    assert changed_settings(before, NodeChange()) == before
    with pytest.raises(InvalidInput, match="at most 64 labels"):
        changed_settings(before, NodeChange(labels={f"l{number}": "" for number in range(64)}))


def process(name: str, node: str = "n1", state: str = "running", **labels: str) -> ProcessStatus:
    fields = {"id": name, "state": state, "pid": 1, "labels": labels, "node_id": node}
    return msgspec.convert(fields, ProcessStatus)


def test_what_runs_says_what_it_was_given() -> None:
    found = allocations(
        [
            process("job_1", cpu="2000", memory=str(GIB), accelerators="0,2", milli="1000"),
            process("rep_1", cpu="500", memory=str(GIB), accelerators="1", milli="250"),
            process("rep_2", cpu="500", memory="0", accelerators="1", milli="500"),
            process("job_2", state="exited", cpu="9000", accelerators="3", milli="1000"),
            process("old", node="n2"),
            process("odd", node="n2", cpu="-5", memory="much", accelerators="x"),
        ]
    )
    assert found == {
        "n1": NodeAllocation(3000, 2 * GIB, {0: 1000, 1: 750, 2: 1000}, 3),
        "n2": NodeAllocation(processes=2),
    }


class Fabric:
    """A fabric of one node that can be away."""

    def __init__(self) -> None:
        self.node = facts(gpu(0))
        self.is_away = False

    async def nodes(self) -> list[NodeFacts]:
        raise NotImplementedError

    async def list(self) -> list[ProcessStatus]:
        if self.is_away:
            raise Unavailable("away")
        return [process("job_1", cpu="2000", memory="7", accelerators="0", milli="500")]

    async def start(self, spec: object) -> None:
        raise NotImplementedError

    async def stop(self, process_id: str) -> None:
        raise NotImplementedError


@pytest.mark.anyio
async def test_a_region_tells_of_its_nodes_on_change_and_at_times(clock: ManualClock) -> None:
    told: list[list[NodeStatus]] = []
    answers = [204]

    def control(request: httpx2.Request) -> httpx2.Response:
        assert (request.method, request.url.path) == ("PUT", "/internal/v1/nodes")
        assert request.headers["authorization"] == "Bearer token"
        told.append(msgspec.json.decode(request.content, type=list[NodeStatus], strict=False))
        return httpx2.Response(answers[-1])

    fabric = Fabric()
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(control)) as client:
        seen: list[NodeFacts] | None = None
        reporter = NodeReporter(fabric, client, "http://control", "token", seen=lambda: seen, clock=clock)
        await reporter.step()
        assert told == []  # the placer has not looked yet
        seen = [fabric.node]
        await reporter.step()
        await reporter.step()
        allocated = NodeAllocation(2000, 7, {0: 500}, 1)
        assert told == [[NodeStatus(fabric.node, allocated)]]
        clock.advance(REPORT_AT_LEAST_EVERY_SECONDS)
        await reporter.step()
        assert len(told) == 2
        # A report that is refused is told again; none is made up while the fabric is away.
        seen = [facts(is_ready=False)]
        answers.append(503)
        await reporter.step()
        fabric.is_away = True
        await reporter.step()
        assert len(told) == 3
        fabric.is_away = False
        answers.append(204)
        await reporter.step()
        await reporter.step()
        assert [status.facts.is_ready for status in told[-1]] == [False]
        assert len(told) == 4
