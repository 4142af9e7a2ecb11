"""A fabric of several nodes on this machine: each node an agent in a process of its own, at a loopback address of its
own, whose replicas and jobs end with it. `kill` loses one as a power cut would.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec

from cloudcrest.compute.api import AcceleratorFacts, NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.compute.fabric.agent import NodeAgent
from cloudcrest.compute.fabric.local import LocalFabric
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.compute.nodes.merge import ZONE_LABEL
from cloudcrest.infra.lifeline import Lifeline, exit_with_lifeline
from cloudcrest.kernel.errors import InvalidInput, Unavailable
from cloudcrest.kernel.units import GIB
from tests.support.waiting import until_async


def node(name: str, *, zone: str = "", accelerators: int = 0, cpu_milli: int = 4_000) -> NodeFacts:
    """A made-up node: what it says it has is its own affair, as what runs on it runs on this machine."""
    chips = tuple(AcceleratorFacts(index, "acme", "", "One", 80 * GIB) for index in range(accelerators))
    labels = {ZONE_LABEL: zone} if zone else {}
    return NodeFacts(name, "127.0.0.1", cpu_milli, 16 * GIB, chips, labels)


class ManyNodes:
    """Implements `compute.api.Fabric` over one agent for each node. A node whose agent is gone is listed, not ready."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._facts: dict[str, NodeFacts] = {}
        self._agents: dict[str, asyncio.subprocess.Process] = {}
        self._lifeline = Lifeline()

    async def add(self, *nodes: NodeFacts) -> None:
        """Starts their agents; one of a name that was killed comes back."""
        for facts in nodes:
            # Every 127.x.y.z is this machine, on Linux; elsewhere the nodes share one address.
            number = len(self._facts) + 2
            address = f"127.0.0.{number}" if sys.platform == "linux" else "127.0.0.1"
            known = self._facts.get(facts.id)
            self._facts[facts.id] = known or msgspec.structs.replace(facts, address=address)
            self._agents[facts.id] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.support.nodes", str(self._socket(facts.id)), str(self._folder)),
                env={**os.environ, **self._lifeline.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
                pass_fds=(self._lifeline.read_fd,),
            )
        for facts in nodes:
            await until_async(partial(self._is_ready, facts.id), f"node {facts.id} is ready")

    async def kill(self, *names: str) -> None:
        """These are lost, with all that runs there."""
        for name in names:
            with contextlib.suppress(ProcessLookupError):
                self._agents[name].kill()
            await self._agents[name].wait()

    async def close(self) -> None:
        await self.kill(*self._agents)
        self._lifeline.close()

    async def nodes(self) -> list[NodeFacts]:
        return [
            msgspec.structs.replace(facts, is_ready=self._runs(name), reason=None if self._runs(name) else "is gone")
            for name, facts in self._facts.items()
        ]

    async def start(self, spec: ProcessSpec) -> None:
        if spec.node_id not in self._facts:
            raise InvalidInput(f"there is no node '{spec.node_id}'")
        await self._agent(spec.node_id).start(spec)

    async def list(self) -> list[ProcessStatus]:
        found = []
        for name, facts in self._facts.items():
            if self._runs(name):
                with contextlib.suppress(Unavailable):
                    found += [
                        msgspec.structs.replace(process, node_id=name, address=facts.address)
                        for process in await self._agent(name).list()
                    ]
        return found

    async def stop(self, process_id: str) -> None:
        for process in await self.list():
            if process.id == process_id:
                await self._agent(process.node_id).stop(process_id)

    def _agent(self, name: str) -> LocalFabric:
        return LocalFabric(self._socket(name))

    def _socket(self, name: str) -> Path:
        return self._folder / f"{name}.sock"

    def _runs(self, name: str) -> bool:
        return self._agents[name].returncode is None

    async def _is_ready(self, name: str) -> bool:
        try:
            await self._agent(name).list()
        except Unavailable:
            return False
        return True


@asynccontextmanager
async def many_nodes(*nodes: NodeFacts) -> AsyncIterator[ManyNodes]:
    """A fabric of these nodes."""
    with tempfile.TemporaryDirectory() as folder:  # a socket's path has few characters
        fabric = ManyNodes(Path(folder))
        try:
            await fabric.add(*nodes)
            yield fabric
        finally:
            await fabric.close()


async def _serve(socket: Path, folder: Path, environment: Mapping[str, str]) -> None:
    exit_with_lifeline()
    lifeline = Lifeline()
    host = ProcessHost(log_folder=folder, working_folder=folder, lifeline=lifeline, environment=environment)
    await NodeAgent(host, socket).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), Path(sys.argv[2]), os.environ))
