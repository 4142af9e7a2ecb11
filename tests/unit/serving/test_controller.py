"""The controller over a fake fabric and a clock that moves when told to."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from cloudcrest.catalog.api import ModelPullDocument
from cloudcrest.compute.api import ProcessSpec
from cloudcrest.compute.fakes import FakePlacer
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.errors import Unavailable
from cloudcrest.kernel.ids import id_maker
from cloudcrest.serving.api import DeploymentDocument, Placement, RegionStatus, ReplicaStatus, RouteDocument
from cloudcrest.serving.controller import Controller
from cloudcrest.serving.engines.api import TOKEN_VARIABLE, Probe
from cloudcrest.serving.fakes import FakeArtifacts, FakeEngine, FakeFabric
from cloudcrest.serving.replicas import replica_token
from tests.unit.serving.documents import MODEL, deployment

pytestmark = pytest.mark.anyio


class Region:
    """A controller with all it touches, stepped by hand."""

    def __init__(self, clock: ManualClock, folder: Path) -> None:
        self.clock = clock
        self.fabric = FakeFabric()
        self.placer = FakePlacer()
        self.artifacts = FakeArtifacts(folder / "model.gguf")
        self.engine = FakeEngine()
        self.free_bytes = 1_000_000
        self.routes: dict[str, RouteDocument] = {}
        self.status = RegionStatus()
        self.route_changes = 0
        self.controller = self.new_controller()

    def new_controller(self) -> Controller:
        return Controller(
            self.fabric,
            self.placer,
            self.artifacts,
            {"llamacpp": self.engine},
            "local",
            clock=self.clock,
            new_id=id_maker(self.clock),
            on_routes=self.take_routes,
            on_status=self.take_status,
            replica_secret="region-secret",
            free_memory_bytes=lambda: self.free_bytes,
        )

    def take_routes(self, routes: dict[str, RouteDocument]) -> None:
        self.routes = routes
        self.route_changes += 1

    def take_status(self, status: RegionStatus) -> None:
        self.status = status

    def want(self, *documents: DeploymentDocument) -> None:
        self.controller.update(list(documents), [])

    async def steps(self, count: int = 4, *, seconds: float = 0.2) -> None:
        await self._step()
        for _ in range(count):
            self.clock.advance(seconds)
            await self._step()

    async def _step(self) -> None:
        """A step, what it set going, and a step that sees what came of it."""
        await self.controller.step()
        await self.controller.settle()
        await self.controller.step()
        await self.controller.settle()
        await self.controller.step()

    def replica(self) -> ReplicaStatus:
        (replica,) = self.status.replicas
        return replica

    def states(self) -> list[tuple[int, str]]:
        return sorted((replica.generation, replica.state) for replica in self.status.replicas)


@pytest.fixture
async def region(clock: ManualClock, tmp_path: Path) -> AsyncIterator[Region]:
    region = Region(clock, tmp_path)
    yield region
    await region.controller.settle()


async def test_brings_a_deployment_up_and_routes_to_it(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    route = region.routes["dep_1"]
    assert region.replica().state == "ready"
    assert region.artifacts.fetched == ["tiny:gguf"]
    (endpoint,) = route.replicas
    assert endpoint.slots == 2
    assert route.unavailable_reason is None
    assert region.fabric.specs[endpoint.id].environment[TOKEN_VARIABLE] == endpoint.token
    assert endpoint.token not in str(region.fabric.processes)


async def test_touches_nothing_before_it_knows_what_is_wanted(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    region.controller = region.new_controller()
    await region.steps()
    assert len(region.fabric.processes) == 1
    assert region.route_changes >= 1


async def test_says_why_there_is_no_replica_yet(region: Region) -> None:
    region.engine.probe_all = Probe(is_ready=False, reason="is loading its weights")
    region.want(deployment())
    await region.steps()
    assert region.routes["dep_1"].replicas == ()
    assert (
        region.routes["dep_1"].unavailable_reason == "model 'tiny' is not ready: it is starting: is loading its weights"
    )


async def test_says_that_weights_are_missing_and_tries_again(region: Region) -> None:
    region.artifacts.failure = Unavailable("no source could give the weights of 'tiny': file:/nowhere: no such folder")
    region.want(deployment())
    await region.steps(2)
    assert region.replica().state == "backoff"
    reason = region.routes["dep_1"].unavailable_reason
    assert reason is not None
    assert "no source could give the weights" in reason
    region.artifacts.failure = None
    await region.steps(2, seconds=1.0)
    await region.steps()
    assert region.replica().state == "ready"
    assert region.replica().restarts == 1


async def test_says_that_memory_is_short(region: Region) -> None:
    region.free_bytes = 2_000_000_000
    region.want(deployment(memory_bytes=3_100_000_000))
    await region.steps()
    assert region.replica().reason == "needs 3.1 GB memory, 2.0 GB free"
    assert region.fabric.starts == []


async def test_restarts_a_crashed_replica_with_growing_waits(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    (replica_id,) = region.fabric.processes
    region.fabric.exit(replica_id, -9)
    await region.steps(0)
    assert region.routes["dep_1"].replicas == ()
    assert region.replica().reason == "the engine was ended by SIGKILL (out of memory?)"
    await region.steps(4, seconds=0.4)
    assert (region.replica().state, region.replica().restarts) == ("ready", 1)
    region.fabric.exit(replica_id, 3, "0.01 I fine\nerror: there are no weights\n")
    await region.steps(3, seconds=0.5)
    assert region.replica().state == "backoff"
    assert region.replica().reason == "the engine exited with code 3: there are no weights"
    await region.steps(3, seconds=0.5)
    assert (region.replica().state, region.replica().restarts) == ("ready", 2)


async def test_restarts_a_replica_that_stops_answering(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    region.engine.probe_all = Probe(is_ready=False, is_alive=False, reason="did not answer within 5 s")
    await region.steps(2, seconds=2.0)
    assert region.replica().state == "ready"
    await region.steps(1, seconds=2.0)
    assert region.replica().state == "backoff"
    assert region.replica().reason == "stopped answering: it did not answer within 5 s"
    assert region.fabric.processes == {}


async def test_takes_a_replica_that_cannot_serve_out_of_the_route_without_restarting_it(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    region.engine.probe_all = Probe(is_ready=False, reason="the provider refuses this deployment's key")
    await region.steps(1, seconds=2.0)
    assert region.routes["dep_1"].replicas == ()
    assert len(region.fabric.starts) == 1
    region.engine.probe_all = Probe(is_ready=True)
    await region.steps()
    assert len(region.routes["dep_1"].replicas) == 1


async def test_gives_up_on_a_replica_that_never_gets_ready(region: Region) -> None:
    region.engine.probe_all = Probe(is_ready=False, reason="is loading its weights")
    region.want(deployment())
    await region.steps(2)
    region.clock.advance(region.engine.start_timeout_seconds)
    await region.steps(1, seconds=0.1)
    assert region.replica().reason == "was not ready after 30 s: it is loading its weights"


async def test_replaces_without_a_gap(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    region.engine.probe_all = Probe(is_ready=False, reason="is loading its weights")
    (old,) = region.routes["dep_1"].replicas
    region.engine.probes[old.url] = Probe(is_ready=True, in_flight=1)
    region.want(deployment(generation=2, slots=4))
    await region.steps()
    assert region.routes["dep_1"].replicas == (old,)
    region.engine.probe_all = Probe(is_ready=True)
    now_seconds = region.clock.now().timestamp()
    await region.steps(2)
    leaving, new = sorted(region.routes["dep_1"].replicas, key=lambda each: each.slots)
    assert (leaving.id, new.slots, new.leave_by_unix_seconds) == (old.id, 4, None)
    assert leaving.leave_by_unix_seconds is not None
    assert 120 <= leaving.leave_by_unix_seconds - now_seconds <= 121
    assert region.states() == [(1, "draining"), (2, "ready")]
    region.engine.probes[old.url] = Probe(is_ready=True, in_flight=0)
    await region.steps(8)
    assert region.states() == [(2, "ready")]
    assert region.routes["dep_1"].replicas == (new,)
    assert list(region.fabric.processes) == [new.id]


async def test_a_route_says_why_nobody_is_ready_while_the_last_one_still_finishes(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    region.engine.probe_all = Probe(is_ready=True, in_flight=1)
    region.want(deployment(replicas_min=0))
    await region.steps(2)
    route = region.routes["dep_1"]
    assert [each.leave_by_unix_seconds is None for each in route.replicas] == [False]
    assert route.unavailable_reason == "model 'tiny' is scaled to zero replicas"


async def test_drains_before_it_stops(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    region.engine.probe_all = Probe(is_ready=True, in_flight=1)
    region.want()
    await region.steps(10, seconds=1.0)
    assert region.routes == {}
    assert len(region.fabric.processes) == 1
    region.engine.probe_all = Probe(is_ready=True, in_flight=0)
    await region.steps()
    assert region.fabric.processes == {}
    assert region.status.replicas == ()


async def test_the_next_controller_adopts_what_runs_without_losing_a_route(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    before = region.routes
    region.routes = {}
    region.route_changes = 0
    region.controller = region.new_controller()
    region.want(deployment())
    await region.controller.step()
    assert region.routes == before
    assert region.route_changes == 1
    assert len(region.fabric.starts) == 1


async def test_a_stray_whose_node_does_not_answer_is_not_stopped_without_a_pause(region: Region) -> None:
    await region.fabric.start(ProcessSpec(id="rep_old", argv=("x",), labels={"kind": "replica"}))
    region.fabric.unstoppable = {"rep_old"}
    region.want()
    for _ in range(10):
        await region.controller.step()
        await region.controller.settle()
    assert region.fabric.stops == ["rep_old"]
    region.fabric.unstoppable = set()
    await region.steps(2, seconds=1.0)
    assert region.fabric.processes == {}


async def test_stops_strays_of_another_time(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    region.controller = region.new_controller()
    region.want()
    await region.steps()
    assert region.fabric.processes == {}


async def test_carries_on_when_the_fabric_comes_back(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    region.fabric.failure = Unavailable("the node agent does not answer")
    await region.steps()
    assert len(region.routes["dep_1"].replicas) == 1
    region.fabric.failure = None
    region.want(deployment(replicas_min=2, replicas_max=2))
    await region.steps()
    assert len(region.routes["dep_1"].replicas) == 2


async def test_says_why_there_is_no_place_and_starts_when_there_is(region: Region) -> None:
    region.placer.most = 0
    region.want(deployment())
    await region.steps(1)
    assert (region.replica().state, region.replica().node_id) == ("placing", "")
    assert region.replica().reason == "waits for a place: needs 1 node; all are taken"
    assert "waits for a place" in str(region.routes["dep_1"].unavailable_reason)
    region.placer.most = 1
    region.placer.release("serving", "nothing")
    await region.steps()
    assert (region.replica().state, region.replica().node_id) == ("ready", "local")


async def test_what_no_node_could_ever_hold_has_failed_until_one_could(region: Region) -> None:
    region.placer.most, region.placer.code = 0, "impossible"
    region.want(deployment())
    await region.steps(1)
    assert region.replica().state == "failed"
    region.placer.most = 1
    region.placer.release("serving", "nothing")
    await region.steps()
    assert region.replica().state == "ready"


async def test_starts_a_replica_on_its_node_at_its_address(region: Region) -> None:
    region.placer.nodes = ("far",)
    region.placer.addresses = {"far": "10.1.2.3"}
    region.want(deployment(placement=Placement(accelerators=2, accelerator_milli=1000, cpu_milli=3_000)))
    await region.steps()
    (spec,) = region.fabric.specs.values()
    assert [launch.cores for launch in region.engine.launches] == [3]
    assert (spec.node_id, spec.accelerators) == ("far", (0, 1))
    assert spec.labels["node"] == "far"
    assert region.routes["dep_1"].replicas[0].url == f"http://10.1.2.3:{spec.labels['port']}"


async def test_gives_its_place_back_when_it_is_gone(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    assert len(region.placer.news("serving").placed) == 1
    region.want()
    await region.steps(10, seconds=1.0)
    assert region.placer.news("serving").placed == ()


async def test_the_next_controller_tells_the_placer_what_runs(region: Region) -> None:
    region.want(deployment(memory_bytes=123_456))
    await region.steps()
    region.placer = FakePlacer()
    region.controller = region.new_controller()
    region.want(deployment())
    await region.controller.step()
    (adopted,) = region.placer.adopted
    assert (adopted.spots[0].node_id, adopted.workload.demand.memory_bytes) == ("local", 123_456)


async def test_a_preempted_replica_finishes_and_waits_for_another_place(region: Region) -> None:
    region.want(deployment())
    await region.steps()
    (before,) = region.routes["dep_1"].replicas
    region.placer.most = 0
    region.placer.preempt(before.id)
    await region.steps(10, seconds=1.0)
    assert region.states() == [(1, "placing")]
    assert region.fabric.processes == {}


async def test_what_ran_on_a_lost_node_is_placed_elsewhere_though_it_cannot_be_stopped(region: Region) -> None:
    region.placer.nodes = ("a", "b")
    region.want(deployment())
    await region.steps()
    assert region.replica().node_id == "a"
    before = region.replica().id
    region.placer.lost = {"a"}
    region.fabric.unstoppable = {before}
    await region.steps()
    assert (region.replica().state, region.replica().node_id) == ("ready", "b")
    region.fabric.unstoppable = set()
    await region.steps()
    assert before not in region.fabric.processes


async def test_leaves_out_other_regions(region: Region) -> None:
    region.want(deployment(region="elsewhere"))
    await region.steps()
    assert region.routes == {}
    assert region.fabric.starts == []


async def test_pulls_what_is_wanted_without_a_deployment(region: Region) -> None:
    pull = ModelPullDocument(id="pull_1", region="local", model=MODEL)
    region.artifacts.failure = Unavailable("no network")
    region.controller.update([], [pull, msgspec.structs.replace(pull, id="pull_2", region="elsewhere")])
    await region.steps(2)
    assert region.status.pulls["pull_1"].reason == "no network"
    region.artifacts.failure = None
    await region.steps(8, seconds=1.0)
    assert region.status.pulls["pull_1"].phase == "ready"
    assert list(region.status.pulls) == ["pull_1"]


def test_tokens_follow_from_the_regions_secret() -> None:
    assert replica_token("a", "rep_1") == replica_token("a", "rep_1")
    assert len({replica_token("a", "rep_1"), replica_token("a", "rep_2"), replica_token("b", "rep_1")}) == 3
