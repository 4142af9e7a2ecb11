"""The local fabric, held to the fabric's contract: in this process, and over the agent's socket."""

import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import pytest

from cloudcrest.compute.accelerators.registry import families
from cloudcrest.compute.api import Fabric, NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.compute.fabric.agent import NodeAgent
from cloudcrest.compute.fabric.local import LocalFabric
from cloudcrest.compute.fabric.machine import REFRESH_SECONDS, Machine
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.infra.lifeline import Lifeline
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.errors import InvalidInput, Unavailable
from cloudcrest.serving.fakes import FakeFabric
from tests.integration.compute.processes import SLEEPER, STUBBORN, is_alive, python
from tests.support.waiting import until_async
from tests.unit.compute.vendor import FakeTools, printed

pytestmark = pytest.mark.anyio


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[ProcessHost]:
    lifeline = Lifeline()
    host = ProcessHost(log_folder=tmp_path, working_folder=tmp_path, lifeline=lifeline, environment=os.environ)
    yield host
    await host.close()
    lifeline.close()


@pytest.fixture(params=["in process", "over the socket"])
async def fabric(request: pytest.FixtureRequest, host: ProcessHost) -> AsyncIterator[Fabric]:
    if request.param == "in process":
        yield host
        return
    with tempfile.TemporaryDirectory() as folder:
        agent = NodeAgent(host, Path(folder) / "node.sock")
        await agent.start()
        yield LocalFabric(Path(folder) / "node.sock")
        await agent.close()


async def status(fabric: Fabric, process_id: str) -> ProcessStatus:
    return next(found for found in await fabric.list() if found.id == process_id)


async def settled(fabric: Fabric, process_id: str, state: str, tail: str = "") -> ProcessStatus:
    async def look() -> ProcessStatus | None:
        found = await status(fabric, process_id)
        return found if found.state == state and tail in found.log_tail else None

    found = await until_async(look, f"{process_id} being {state}")
    assert found is not None
    return found


async def test_its_one_node_says_what_it_has(fabric: Fabric) -> None:
    (node,) = await fabric.nodes()
    assert node.is_ready
    assert node.cpu_milli >= 1000
    assert node.memory_bytes > 2**28
    await fabric.start(ProcessSpec(id="rep_1", argv=SLEEPER))
    assert (await status(fabric, "rep_1")).node_id == node.id


async def test_a_process_runs_until_it_is_stopped(fabric: Fabric) -> None:
    await fabric.start(ProcessSpec(id="rep_1", argv=SLEEPER, labels={"deployment": "dep_1"}))
    running = await settled(fabric, "rep_1", "running", "up")
    assert running.labels == {"deployment": "dep_1"}
    assert running.pid is not None
    await fabric.stop("rep_1")
    assert await fabric.list() == []
    assert not is_alive(running.pid)


async def test_starting_what_runs_changes_nothing(fabric: Fabric) -> None:
    await fabric.start(ProcessSpec(id="rep_1", argv=SLEEPER))
    before = await status(fabric, "rep_1")
    await fabric.start(ProcessSpec(id="rep_1", argv=SLEEPER))
    assert (await status(fabric, "rep_1")).pid == before.pid


async def test_stopping_the_unknown_is_no_error(fabric: Fabric) -> None:
    await fabric.stop("rep_unknown")


async def test_an_exited_process_keeps_its_code_and_last_words(fabric: Fabric) -> None:
    await fabric.start(ProcessSpec(id="rep_1", argv=python("import sys; print('no such model'); sys.exit(3)")))
    exited = await settled(fabric, "rep_1", "exited")
    assert (exited.exit_code, exited.pid, exited.log_tail) == (3, None, "no such model")
    await fabric.start(ProcessSpec(id="rep_1", argv=SLEEPER))
    await settled(fabric, "rep_1", "running", "up")


async def test_a_killed_process_is_told_by_its_signal(fabric: Fabric) -> None:
    await fabric.start(ProcessSpec(id="rep_1", argv=SLEEPER))
    running = await settled(fabric, "rep_1", "running", "up")
    assert running.pid is not None
    os.kill(running.pid, signal.SIGKILL)
    assert (await settled(fabric, "rep_1", "exited")).exit_code == -signal.SIGKILL


async def test_a_process_that_ignores_the_request_is_killed_after_its_grace(fabric: Fabric) -> None:
    await fabric.start(ProcessSpec(id="rep_1", argv=STUBBORN, stop_grace_seconds=0.2))
    running = await settled(fabric, "rep_1", "running", "up")
    await fabric.stop("rep_1")
    assert running.pid is not None
    assert not is_alive(running.pid)


async def test_what_a_process_started_ends_with_it(fabric: Fabric) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('child', child.pid, flush=True)\n"
    )
    await fabric.start(ProcessSpec(id="rep_1", argv=python(code)))
    exited = await settled(fabric, "rep_1", "exited", "child")
    child = int(exited.log_tail.split()[-1])
    await until_async(lambda: not is_alive(child), "the end of the grandchild")


@pytest.mark.parametrize("process_id", ["", "../escape", "a/b", "x" * 101, ".hidden"])
async def test_ids_that_are_no_file_names_are_refused(fabric: Fabric, process_id: str) -> None:
    with pytest.raises(InvalidInput):
        await fabric.start(ProcessSpec(id=process_id, argv=SLEEPER))


async def test_a_missing_program_is_said_so(fabric: Fabric) -> None:
    with pytest.raises(InvalidInput, match="cannot run /no/such/program"):
        await fabric.start(ProcessSpec(id="rep_1", argv=("/no/such/program",)))
    assert await fabric.list() == []


async def test_without_an_agent_calls_are_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await LocalFabric(tmp_path / "node.sock").list()


async def test_more_processes_than_one_machine_has_can_be_listed() -> None:
    many = FakeFabric()
    many.processes = {
        name: ProcessStatus(name, "running", 7, {}, log_tail="x" * 4096) for name in map(str, range(6000))
    }
    with tempfile.TemporaryDirectory() as folder:
        agent = NodeAgent(many, Path(folder) / "node.sock")
        await agent.start()
        assert len(await LocalFabric(Path(folder) / "node.sock").list()) == 6000
        await agent.close()


async def test_the_agent_refuses_what_is_no_call(host: ProcessHost) -> None:
    with tempfile.TemporaryDirectory() as folder:
        agent = NodeAgent(host, Path(folder) / "node.sock")
        await agent.start()
        for line in (b"\n", b'{"call": "format"}\n', b'{"call": "start"}\n', b"[1]\n"):
            async with await anyio.connect_unix(Path(folder) / "node.sock") as stream:
                await stream.send(line)
                assert b'"ok":false' in await stream.receive()
        await agent.close()


async def test_a_process_sees_the_accelerators_it_is_given_alone(tmp_path: Path, clock: ManualClock) -> None:
    tools = FakeTools({"mx-smi": printed("mx-smi.txt")})
    machine = Machine(families=families(), tools=tools, clock=clock)
    lifeline = Lifeline()
    host = ProcessHost(
        log_folder=tmp_path, working_folder=tmp_path, lifeline=lifeline, environment=os.environ, machine=machine
    )
    try:
        (node,) = await host.nodes()
        assert [each.index for each in node.accelerators] == [0, 1]
        says = python("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
        # What it says itself does not count.
        theirs = {"CUDA_VISIBLE_DEVICES": "0,1"}
        await host.start(ProcessSpec(id="job_1", argv=says, environment=theirs, accelerators=(1,)))
        await host.start(ProcessSpec(id="job_2", argv=says, environment=theirs))
        assert (await settled(host, "job_1", "exited")).log_tail == "1"
        assert (await settled(host, "job_2", "exited")).log_tail == "-1"
        with pytest.raises(InvalidInput, match="gives out 2 accelerators"):
            await host.start(ProcessSpec(id="job_3", argv=says, accelerators=(7,)))
        assert len(tools.ran) == len(families()) - 1  # each was asked once, save Apple's, which asks no Linux
        tools.prints.clear()
        clock.advance(REFRESH_SECONDS)

        async def not_ready() -> NodeFacts | None:
            (node,) = await host.nodes()
            return None if node.is_ready else node

        found = await until_async(not_ready, "it is seen that the chips are gone")
        assert found is not None
        node = found
        assert len(node.accelerators) == 2
        assert "2 of 2 accelerators no longer answer (MetaX C500 0, MetaX C500 1)" in (node.reason or "")
    finally:
        await host.close()
        lifeline.close()


class SlowMachine(Machine):
    """Says what a process may see when it is told to."""

    def __init__(self) -> None:
        super().__init__(families={}, tools=FakeTools({}), clock=ManualClock())
        self.is_asked, self.go_on = anyio.Event(), anyio.Event()

    async def environment(self, chosen: Sequence[int]) -> dict[str, str]:  # noqa: ARG002
        self.is_asked.set()
        await self.go_on.wait()
        return {}


async def test_a_stop_during_a_start_waits_for_it_and_then_stops_it(tmp_path: Path) -> None:
    lifeline, machine = Lifeline(), SlowMachine()
    host = ProcessHost(
        log_folder=tmp_path, working_folder=tmp_path, lifeline=lifeline, environment=os.environ, machine=machine
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.start, ProcessSpec("p", SLEEPER))
        await machine.is_asked.wait()
        stopped = anyio.Event()

        async def stop() -> None:
            await host.stop("p")
            stopped.set()

        tasks.start_soon(stop)
        await anyio.lowlevel.checkpoint()
        assert not stopped.is_set()
        machine.go_on.set()
    assert await host.list() == []
    await host.close()
    lifeline.close()


async def test_a_start_that_fails_leaves_nothing_behind(host: ProcessHost) -> None:
    for number in range(3):
        with pytest.raises(InvalidInput):
            await host.start(ProcessSpec(f"p{number}", ("/no/such",)))
    await host.stop("p1")
    assert host._locks.names() == ()
    assert await host.list() == []


async def test_a_start_during_a_stop_runs_after_it(host: ProcessHost) -> None:
    await host.start(ProcessSpec("p", SLEEPER))
    first = (await status(host, "p")).pid
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.stop, "p")
        await anyio.lowlevel.checkpoint()
        tasks.start_soon(host.start, ProcessSpec("p", SLEEPER))
    found = await status(host, "p")
    assert found.state == "running"
    assert found.pid != first


async def test_a_machine_tells_of_the_disk_that_jobs_write_to(tmp_path: Path) -> None:
    def machine(members: Path | None) -> Machine:
        return Machine(families={}, tools=FakeTools({}), clock=ManualClock(), members=members)

    facts = await machine(tmp_path / "not" / "made" / "yet").facts()
    assert facts.disk_bytes == shutil.disk_usage(tmp_path).total
    assert 0 < facts.disk_room_bytes <= facts.disk_bytes
    unknown = await machine(None).facts()
    assert (unknown.disk_bytes, unknown.disk_room_bytes) == (0, 0)
