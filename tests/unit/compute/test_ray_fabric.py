"""The Ray fabric over agents that are silent, slow and gone: all made up, so that each case can be had."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from cloudcrest.compute.api import NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.compute.fabric.agent import AgentAnswer, AgentCall
from cloudcrest.compute.fabric.ray import fabric as ray_fabric
from cloudcrest.compute.fabric.ray.fabric import RayFabric
from cloudcrest.compute.fabric.ray.members import Member
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.errors import SetupError, Unavailable
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


class Agents:
    """A cluster whose agents answer, or do not. `calls` are those that came to each node."""

    def __init__(self, *names: str) -> None:
        self.present = {name: Member(f"ray-{name}", name, f"10.0.0.{i}", {}, True) for i, name in enumerate(names, 1)}
        self.broken: dict[str, Callable[[], Awaitable[bytes]]] = {}
        self.running: dict[str, list[ProcessStatus]] = {name: [] for name in names}
        self.is_ray_there = True
        self.freezes_at = ""
        self.looks = self.looks_before_answer = 0
        self.held: list[asyncio.Event] = []
        """The next list of all nodes is made at once, and told when this is set."""

    async def members(self) -> list[Member]:
        self.looks += 1
        if not self.is_ray_there:
            raise ConnectionError("no head")
        return [*self.present.values()]

    def exchange(self, member: Member) -> Callable[[bytes], Awaitable[bytes]]:
        async def answer(line: bytes) -> bytes:
            if member.name in self.broken:
                return await self.broken[member.name]()
            due = self.looks + self.looks_before_answer
            await until_async(lambda: self.looks >= due, "it is time to answer", pause_seconds=0.001)
            call, running = msgspec.json.decode(line, type=AgentCall), self.running[member.name]
            if call.call == self.freezes_at:
                self.broken[member.name] = for_ever
                await for_ever()
            if call.call == "start" and call.spec is not None:
                running.append(ProcessStatus(call.spec.id, "running", 7, call.spec.labels, node_id="local"))
            elif call.call == "stop":
                running[:] = [each for each in running if each.id != call.process_id]
            told = msgspec.json.encode(
                AgentAnswer(ok=True, nodes=[NodeFacts("local", "127.0.0.1", 4000, 1)], processes=running)
            )
            if call.call == "list" and self.held:
                await self.held.pop().wait()
            return told

        return answer


async def refused() -> bytes:
    raise ConnectionError("the actor is dead")


async def for_ever() -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def over(agents: Agents, folder: Path, clock: ManualClock) -> AsyncIterator[RayFabric]:
    """The fabric at work."""
    fabric = RayFabric(agents, folder / "known.json", clock=clock)
    task = asyncio.create_task(fabric.run())
    try:
        yield fabric
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ready(fabric: RayFabric, *names: str) -> None:
    """Returns when exactly these are ready."""

    async def look() -> bool:
        try:
            return {node.id for node in await fabric.nodes() if node.is_ready} == {*names}
        except Unavailable:
            return False

    await until_async(look, f"{names} are ready", seconds=10.0)


async def where(fabric: RayFabric) -> dict[str, str]:
    return {process.id: process.node_id for process in await fabric.list()}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often."""
    monkeypatch.setattr(ray_fabric, "MEMBERS_SECONDS", 0.01)
    monkeypatch.setattr("cloudcrest.compute.fabric.ray.node._PROBE_SECONDS", 0.01)
    monkeypatch.setattr("cloudcrest.compute.fabric.ray.node._PROBE_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("cloudcrest.compute.fabric.ray.node.ANSWER_SECONDS", 0.1)


async def test_processes_are_started_where_they_should_be_and_stopped_wherever_they_are(
    tmp_path: Path, clock: ManualClock
) -> None:
    agents = Agents("a", "b")
    async with over(agents, tmp_path, clock) as fabric:
        await ready(fabric, "a", "b")
        await fabric.start(ProcessSpec("p", ("x",), node_id="b"))
        (process,) = await fabric.list()
        assert (process.node_id, process.address, process.pid) == ("b", "10.0.0.2", 7)
        await fabric.stop("p")
        await fabric.stop("p")
        assert agents.running == {"a": [], "b": []}


@pytest.mark.parametrize("fault", [refused, for_ever])
async def test_a_silent_node_is_not_ready_is_not_waited_for_and_what_it_ran_is_still_told(
    fault: Callable[[], Awaitable[bytes]], tmp_path: Path, clock: ManualClock
) -> None:
    agents = Agents("a", "b")
    async with over(agents, tmp_path, clock) as fabric:
        await ready(fabric, "a", "b")
        await fabric.start(ProcessSpec("on-a", ("x",), node_id="a"))
        await fabric.start(ProcessSpec("on-b", ("x",), node_id="b"))
        agents.broken["b"] = fault
        await ready(fabric, "a")
        assert await where(fabric) == {"on-a": "a", "on-b": "b"}
        silent = next(node for node in await fabric.nodes() if node.id == "b")
        assert silent.reason is not None
        for call in (fabric.start(ProcessSpec("x", ("x",), node_id="b")), fabric.stop("on-b")):
            with pytest.raises(Unavailable, match="node 'b' does not answer"):
                await call
        await fabric.stop("on-a")
        del agents.broken["b"]
        await ready(fabric, "a", "b")
        await fabric.stop("on-b")
        assert await where(fabric) == {}


async def test_a_node_that_left_is_listed_as_such_and_what_it_ran_may_run(tmp_path: Path, clock: ManualClock) -> None:
    agents = Agents("a", "b")
    async with over(agents, tmp_path, clock) as fabric:
        await ready(fabric, "a", "b")
        await fabric.start(ProcessSpec("on-b", ("x",), node_id="b"))
        agents.present["b"] = dataclasses.replace(agents.present["b"], is_alive=False)
        await until_async(lambda: _left(fabric), "b has left")
        assert await where(fabric) == {"on-b": "b"}
        with pytest.raises(Unavailable, match="it has left the cluster"):
            await fabric.stop("on-b")
        clock.advance(ray_fabric.COME_BACK_SECONDS)
        assert await where(fabric) == {}
        await fabric.stop("on-b")
        with pytest.raises(Unavailable, match="'b' has left the cluster"):
            await fabric.start(ProcessSpec("x", ("x",), node_id="b"))
        agents.present["b"] = Member("ray-again", "b", "10.0.0.9", {"zone": "z"}, True)
        await ready(fabric, "a", "b")
        assert await where(fabric) == {"on-b": "b"}  # its agent never ended


async def test_a_node_that_left_is_told_of_for_a_while_and_then_no_more(tmp_path: Path, clock: ManualClock) -> None:
    agents = Agents("a", "b")
    async with over(agents, tmp_path, clock) as fabric:
        await ready(fabric, "a", "b")
        agents.present["b"] = dataclasses.replace(agents.present["b"], is_alive=False)
        await until_async(lambda: _left(fabric), "b has left")
        clock.advance(ray_fabric.TOLD_OF_SECONDS)
        assert [node.id for node in await fabric.nodes()] == ["a"]
        del agents.present["b"]
        await until_async(lambda: "b" not in fabric._left, "it is forgotten")


async def test_what_runs_is_listed_while_a_ray_that_started_again_is_not_heard_yet(
    tmp_path: Path, clock: ManualClock
) -> None:
    agents = Agents("a", "b")
    async with over(agents, tmp_path, clock) as fabric:
        await ready(fabric, "a", "b")
        await fabric.start(ProcessSpec("on-b", ("x",), node_id="b"))
        agents.broken["b"] = for_ever
        agents.present["b"] = Member("ray-again", "b", "10.0.0.9", {}, True)

        async def is_another() -> bool:
            return any(node.address == "10.0.0.9" for node in await fabric.nodes())

        await until_async(is_another, "the name means the new one")
        assert await where(fabric) == {"on-b": "b"}
        del agents.broken["b"]
        await ready(fabric, "a", "b")
        assert await where(fabric) == {"on-b": "b"}


async def test_two_nodes_of_one_name_do_not_take_turns_while_neither_has_answered(
    tmp_path: Path, clock: ManualClock
) -> None:
    agents = Agents("a", "b")
    agents.present["again"] = Member("ray-again", "b", "10.0.0.9", {}, True)
    agents.looks_before_answer = 4
    async with over(agents, tmp_path, clock) as fabric:
        await ready(fabric, "a", "b")
        assert len(await fabric.nodes()) == 2  # one of them may be about to end
        clock.advance(10.0)
        (taken,) = [node for node in await fabric.nodes() if not node.is_ready]
        assert taken.reason == "another node is called 'b': join it under another name (--name)"


async def test_a_name_means_the_same_node_after_a_start_of_the_fabric(tmp_path: Path, clock: ManualClock) -> None:
    agents = Agents("a", "b")
    for _ in range(2):
        async with over(agents, tmp_path, clock) as fabric:
            await ready(fabric, "a", "b")
            addresses = {node.id: node.address for node in await fabric.nodes() if node.is_ready}
            assert addresses == {"a": "10.0.0.1", "b": "10.0.0.2"}
        agents.present = {"again": Member("ray-again", "b", "10.0.0.9", {}, True), **agents.present}


@pytest.mark.parametrize("call", ["start", "stop"])
async def test_nobody_waits_for_a_call_to_a_node_that_falls_silent_meanwhile(
    call: str, tmp_path: Path, clock: ManualClock
) -> None:
    agents = Agents("a", "b")
    async with over(agents, tmp_path, clock) as fabric:
        await ready(fabric, "a", "b")
        await fabric.start(ProcessSpec("on-b", ("x",), node_id="b"))
        agents.freezes_at = call
        new = ProcessSpec("new", ("x",), node_id="b")
        calling = asyncio.create_task(fabric.stop("on-b") if call == "stop" else fabric.start(new))
        await until_async(lambda: "b" in agents.broken, "it is frozen")
        await fabric.list()
        with pytest.raises(Unavailable, match="node 'b' does not answer"):
            await asyncio.wait_for(calling, 5.0)
        # Either may run: nobody is told that it is gone.
        for name in ("on-b", *(["new"] if call == "start" else [])):
            assert name in await where(fabric)
            with pytest.raises(Unavailable, match="node 'b' does not answer"):
                await fabric.stop(name)


async def test_an_answer_from_before_a_start_does_not_hide_what_was_started(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudcrest.compute.fabric.ray.node.ANSWER_SECONDS", 10.0)
    agents, late = Agents("a"), asyncio.Event()
    async with over(agents, tmp_path, clock) as fabric:
        await ready(fabric, "a")
        await fabric.start(ProcessSpec("old", ("x",), node_id="a"))
        agents.held.append(late)
        listing = asyncio.create_task(fabric.list())
        await until_async(lambda: not agents.held, "it is answered, and the answer on its way")
        await fabric.start(ProcessSpec("new", ("x",), node_id="a"))
        late.set()
        assert {process.id for process in await listing} == {"old", "new"}
        agents.broken["a"] = refused
        assert await where(fabric) == {"old": "a", "new": "a"}


async def test_without_ray_the_nodes_that_were_known_go_on(tmp_path: Path, clock: ManualClock) -> None:
    agents = Agents("a")
    async with over(agents, tmp_path, clock) as fabric:
        await ready(fabric, "a")
        agents.is_ray_there = False
        await fabric.start(ProcessSpec("p", ("x",), node_id="a"))
        assert await where(fabric) == {"p": "a"}


async def test_after_a_start_nodes_that_were_there_are_awaited_for_a_while(tmp_path: Path, clock: ManualClock) -> None:
    async with over(Agents("a", "b"), tmp_path, clock) as fabric:
        await ready(fabric, "a", "b")
    agents = Agents("a")
    async with over(agents, tmp_path, clock) as fabric:
        await until_async(lambda: _says(fabric, "on their way back: b"), "b is awaited")
        clock.advance(ray_fabric.COME_BACK_SECONDS)
        await ready(fabric, "a")
        await until_async(lambda: (tmp_path / "known.json").read_text() == '{"a":"ray-a"}', "b is forgotten")
    async with over(agents, tmp_path, clock) as fabric:
        await ready(fabric, "a")  # nobody waits for b again
    (tmp_path / "known.json").write_text("{")
    async with over(agents, tmp_path, clock) as fabric:
        await ready(fabric, "a")


async def test_a_disk_that_takes_nothing_costs_the_next_start_its_patience_and_nothing_else(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SetupError("the disk is full")

    monkeypatch.setattr(ray_fabric, "write_atomic", full)
    agents = Agents("a")
    async with over(agents, tmp_path, clock) as fabric:
        await ready(fabric, "a")
        agents.present["b"] = Member("ray-b", "b", "10.0.0.2", {}, True)
        agents.running["b"] = []
        await ready(fabric, "a", "b")
    assert not (tmp_path / "known.json").exists()


async def test_before_ray_has_answered_nothing_is_known(tmp_path: Path, clock: ManualClock) -> None:
    agents = Agents("a")
    agents.is_ray_there = False
    async with over(agents, tmp_path, clock) as fabric:
        for call in (fabric.nodes(), fabric.start(ProcessSpec("x", ("x",), node_id="a"))):
            with pytest.raises(Unavailable, match="not known yet"):
                await call


async def _left(fabric: RayFabric) -> bool:
    return any(node.reason == "it has left the cluster" for node in await fabric.nodes())


async def _says(fabric: RayFabric, words: str) -> bool:
    try:
        await fabric.list()
    except Unavailable as error:
        return words in error.message
    return False
