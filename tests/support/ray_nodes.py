"""A real Ray cluster on this machine, on loopback: each node a Ray of its own, with an agent in a process of its own
that says it has made-up chips. What the region service would ask is at `fabric`.
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil

from cloudcrest.bootstrap.ports import free_port
from cloudcrest.bootstrap.settings import FabricProcessSettings, LogSettings
from cloudcrest.bootstrap.settings_file import write_settings
from cloudcrest.compute.accelerators.tools import MachineTools
from cloudcrest.compute.api import AcceleratorFacts, NodeFacts
from cloudcrest.compute.fabric.agent import NodeAgent
from cloudcrest.compute.fabric.local import LocalFabric
from cloudcrest.compute.fabric.machine import Machine, this_machine
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.compute.fabric.ray.command import RayStart, ray_environment
from cloudcrest.infra.lifeline import Lifeline, exit_with_lifeline
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.kernel.errors import CloudcrestError
from cloudcrest.kernel.units import GIB
from tests.support.waiting import until_async

SECONDS = 60.0


class RayNodes:
    """`folder`: a short path. The first node that is added is the head."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.head = f"127.0.0.1:{free_port('127.0.0.1')}"
        self.token_path = folder / "token"
        self.token_path.write_text("6" * 64)
        self.fabric = LocalFabric(folder / "node.sock")
        self._lifeline = Lifeline()
        self._agents: dict[str, asyncio.subprocess.Process] = {}
        self._rays: dict[str, asyncio.subprocess.Process] = {}
        self._driver: asyncio.subprocess.Process | None = None

    async def add(
        self, name: str, *, accelerators: int = 0, data: Path | None = None, folder: str = "", **labels: str
    ) -> None:
        """Starts a node. `data`: the data folder it says it has. `folder`: of its own, where its name is another's."""
        own = self.folder / (folder or name)
        own.mkdir(exist_ok=True)
        key = folder or name
        if key not in self._agents:
            self._agents[key] = await self._python("tests.support.ray_nodes", str(own), str(accelerators))
        start = RayStart(
            name=name,
            head=self.head,
            address="127.0.0.1",
            folder=own,
            token_path=self.token_path,
            socket_path=own / "agent.sock",
            data_folder=data or self.folder,
            labels={f"cloudcrest.io/{label}": value for label, value in labels.items()},
            is_head=not self._rays,
        )
        spec = start.process()
        self._rays[key] = await self._run(*spec.argv, environment=spec.environment)

    async def drive(self) -> None:
        """Starts the fabric process; its predecessor is killed."""
        if self._driver is not None:
            self._driver.kill()
            await self._driver.wait()
        path = self.folder / "fabric.json"
        settings = FabricProcessSettings(
            ray_address=self.head,
            node_address="127.0.0.1",
            node_socket=self.folder / "node.sock",
            data_folder=self.folder,
            known_path=self.folder / "known.json",
            log=LogSettings("info", json=True),
        )
        write_settings(path, settings)
        self._driver = await self._python(
            "cloudcrest.bootstrap", "fabric", "--settings", str(path), environment=ray_environment(self.token_path)
        )

    async def ready(self, *names: str) -> dict[str, NodeFacts]:
        """The nodes by name, once these are ready."""

        async def look() -> dict[str, NodeFacts] | None:
            nodes = await self.facts()
            return nodes if all(name in nodes and nodes[name].is_ready for name in names) else None

        return await until_async(look, f"{names} are ready", seconds=SECONDS) or {}

    async def facts(self) -> dict[str, NodeFacts]:
        """The nodes by name; none where the fabric cannot say now."""
        with contextlib.suppress(CloudcrestError):
            return {node.id: node for node in await self.fabric.nodes()}
        return {}

    async def kill(self, name: str) -> None:
        """The node is lost, with all that runs there, as by a power cut."""
        for process in (self._agents.pop(name), self._rays.pop(name)):
            process.kill()
            await process.wait()

    async def kill_ray(self, name: str) -> None:
        """Only Ray ends on this node."""
        process = self._rays.pop(name)
        process.kill()
        await process.wait()

    def ray_processes(self) -> list[psutil.Process]:
        """All that Ray runs, on every node."""
        return [child for ray in self._rays.values() for child in psutil.Process(ray.pid).children(recursive=True)]

    async def close(self) -> None:
        running = [*self._rays.values(), *self._agents.values(), *([self._driver] if self._driver else [])]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
        self._lifeline.close()

    async def _python(self, *words: str, environment: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
        return await self._run(sys.executable, "-m", *words, environment=environment or {})

    async def _run(self, *argv: str, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
        # A test of this process that has asked Ray for something has had it leave variables here.
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with (self.folder / "log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *argv,
                env={**own, **environment, **self._lifeline.environment(), "PYTHONPATH": str(_ROOT)},
                pass_fds=(self._lifeline.read_fd,),
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )


@asynccontextmanager
async def ray_nodes() -> AsyncIterator[RayNodes]:
    """A cluster without nodes."""
    with tempfile.TemporaryDirectory(prefix="cr-") as folder:  # a socket's path has few characters
        cluster = RayNodes(Path(folder))
        try:
            yield cluster
        finally:
            await cluster.close()


class _MadeUp(Machine):
    """This machine, with chips that it says it has."""

    def __init__(self, accelerators: int) -> None:
        super().__init__(families={}, tools=MachineTools(), clock=SystemClock())
        self._made_up = tuple(AcceleratorFacts(index, "acme", "", "One", 80 * GIB) for index in range(accelerators))

    async def facts(self) -> NodeFacts:
        return msgspec.structs.replace(this_machine(), accelerators=self._made_up)

    async def environment(self, chosen: Sequence[int]) -> dict[str, str]:
        return {"ACME_VISIBLE": ",".join(map(str, chosen))}


async def _serve(folder: Path, accelerators: int) -> None:
    exit_with_lifeline()
    host = ProcessHost(
        log_folder=folder,
        working_folder=folder,
        lifeline=Lifeline(),
        environment=os.environ,
        machine=_MadeUp(accelerators),
    )
    await NodeAgent(host, folder / "agent.sock").start()
    await asyncio.Event().wait()


_ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
