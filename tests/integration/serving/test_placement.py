"""Replicas over several nodes: real agents, real replicas at their nodes' addresses, zones that are lost."""

from collections import Counter
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from cloudcrest.bootstrap.region_placement import Published, rules
from cloudcrest.catalog.api import Artifact
from cloudcrest.compute.api import NodeDocument
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.serving.api import Placement, ReplicaEndpoint
from cloudcrest.serving.fakes import FakeArtifacts
from tests.integration.serving.test_controller import ask
from tests.support.nodes import ManyNodes, many_nodes, node
from tests.support.region import Region
from tests.support.replicas import deployment, gguf
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
NOW = ManualClock().now()

SIMULATED = deployment("simulated", options={"answer_tokens": 5})


@pytest.fixture
async def fabric(anyio_backend: str) -> AsyncIterator[ManyNodes]:
    nodes = [node(f"{zone}{number}", zone=zone, accelerators=1) for zone in "abc" for number in (1, 2)]
    async with many_nodes(*nodes) as made:
        yield made


@pytest.fixture
def region(fabric: ManyNodes, tmp_path: Path) -> Region:
    return Region(fabric, FakeArtifacts(tmp_path / "m.gguf"), tmp_path)


def serving(region: Region) -> list[ReplicaEndpoint]:
    route = region.routes.get("dep_test")
    return [each for each in route.replicas if each.leave_by_unix_seconds is None] if route is not None else []


def verified(artifact: Artifact, path: Path) -> Artifact:
    """The same, with what its file really is."""
    file = msgspec.structs.replace(artifact.files[0], sha256=sha256(path.read_bytes()).hexdigest())
    return msgspec.structs.replace(artifact, files=(file,))


async def settled(region: Region, count: int) -> Counter[str]:
    """How many replicas are ready in each zone, once there are `count` and no others."""

    def look() -> bool:
        ready = {replica.id for replica in region.status.replicas if replica.state == "ready"}
        return len(region.status.replicas) == count and {each.id for each in serving(region)} == ready != set()

    await until_async(lambda: look() and len(serving(region)) == count, f"{count} are ready: {region.status}")
    return Counter(replica.node_id[0] for replica in region.status.replicas)


async def test_replicas_spread_over_zones_and_come_back_when_a_whole_zone_is_lost(
    region: Region, fabric: ManyNodes
) -> None:
    wanted = msgspec.structs.replace(SIMULATED, replicas_min=3, replicas_max=3)
    async with region.running(wanted):
        assert await settled(region, 3) == {"a": 1, "b": 1, "c": 1}
        addresses = {facts.id: facts.address for facts in await fabric.nodes()}
        nodes = {replica.id: replica.node_id for replica in region.status.replicas}
        for endpoint in serving(region):
            assert endpoint.url.startswith(f"http://{addresses[nodes[endpoint.id]]}:")
            assert await ask(endpoint)
        lost = {name for name, where in nodes.items() if where[0] == "b"}
        await fabric.kill("b1", "b2")
        await until_async(lambda: not lost & {each.id for each in region.status.replicas}, "the lost one is given up")
        zones = await settled(region, 3)
        assert sorted(zones.values()) == [1, 2]
        assert "b" not in zones
        assert nodes.keys() - lost < {each.id for each in serving(region)}
        assert all([await ask(endpoint) for endpoint in serving(region)])


async def test_a_drained_nodes_replica_leaves_when_the_new_one_is_ready(region: Region) -> None:
    async with region.running(SIMULATED):
        await settled(region, 1)
        (before,) = region.status.replicas
        gaps: list[str] = []
        region.heard = lambda routes: gaps.append("gap") if not routes["dep_test"].replicas else None
        drained = NodeDocument(id="node_1", node_id=before.node_id, is_draining=True)
        region.placer.update(rules(Published(nodes=[drained]), NOW))
        await until_async(lambda: [each.id for each in serving(region)] not in ([], [before.id]), "another serves")
        await settled(region, 1)
        assert region.status.replicas[0].node_id != before.node_id
        assert gaps == []


async def test_a_replica_gets_an_accelerator_and_waits_with_a_reason_where_there_is_none(region: Region) -> None:
    placement = Placement(accelerators=1, accelerator_types=("acme-one-80gb",), node_labels={"cloudcrest.io/zone": "a"})
    wanted = msgspec.structs.replace(SIMULATED, replicas_min=3, replicas_max=3, placement=placement)
    async with region.running(wanted):
        await until_async(lambda: len(serving(region)) == 2, "two have places")
        reason = await until_async(
            lambda: next((each.reason for each in region.status.replicas if each.state == "placing"), None), "why"
        )
        assert reason == "waits for a place: needs 1 × acme-one-80gb free on one node; best node has 0"


async def test_weights_are_fetched_on_the_node_where_the_replica_runs(region: Region, chat_weights: Path) -> None:
    artifact = gguf(chat_weights)
    wanted = deployment("llamacpp", artifact=verified(artifact, chat_weights))
    async with region.running(wanted) as controller:
        assert await ask(await region.endpoint())
        assert region.artifacts.fetched == []
        assert [*(region.folder / "models").glob("*/*.gguf")]
        broken = msgspec.structs.replace(artifact, sources=("file:/nowhere",))
        model = msgspec.structs.replace(wanted.model, id="other", artifacts=(broken,))
        controller.update([msgspec.structs.replace(wanted, generation=2, model=model)], [])
        reason = await until_async(
            lambda: next((each.reason or "" for each in region.status.replicas if each.state == "backoff"), ""), "why"
        )
        assert reason.startswith("on node '")
        assert "/nowhere" in reason
