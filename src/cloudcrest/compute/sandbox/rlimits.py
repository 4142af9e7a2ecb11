"""Commands held by limits alone, for organizations that the operator trusts: the files of the cloud's user are open to
them, and its network.
"""

import asyncio
from collections.abc import Mapping

import msgspec

from cloudcrest.compute.sandbox.api import Reach, SandboxEnd, SandboxProcess, SandboxSpec, SandboxUsage
from cloudcrest.compute.sandbox.cgroup import PREFIX, Cgroup, new_cgroup
from cloudcrest.compute.sandbox.limiting import how_it_ended, limited
from cloudcrest.compute.sandbox.plain import PlainSandbox


class LimitedSandbox:
    """Implements `sandbox.api.Sandbox`: a plain process under a control group, or rlimits."""

    isolation = "rlimits"
    has_own_view = False

    def __init__(self) -> None:
        self._plain = PlainSandbox()

    async def reach(self, *, in_image: bool) -> tuple[Reach, str]:  # noqa: ARG002
        return "node", ""

    async def fetch(self, image: str) -> None:
        """Nothing: it runs none."""

    async def start(self, spec: SandboxSpec, output_fd: int) -> SandboxProcess:
        """Starts it."""
        cgroup = new_cgroup(f"{PREFIX}{spec.id}")
        if cgroup is not None:
            cgroup.limit(cpu_milli=spec.cpu_milli, memory_bytes=spec.memory_bytes, processes=spec.processes)
        held = msgspec.structs.replace(spec, argv=limited(spec.argv, spec, cgroup))
        return _Limited(await self._plain.start(held, output_fd), cgroup)


class _Limited:
    """Implements `sandbox.api.SandboxProcess` over a plain one."""

    def __init__(self, inner: SandboxProcess, cgroup: Cgroup | None) -> None:
        self._inner = inner
        self._cgroup = cgroup

    async def wait(self) -> SandboxEnd:
        end = await self._inner.wait()
        is_out_of_memory = False
        if self._cgroup is not None:
            self._cgroup.kill()
            is_out_of_memory = self._cgroup.was_out_of_memory()
            await asyncio.to_thread(self._cgroup.remove)
        code = end.exit_code if end.exit_code is not None else -(end.signal or 0)
        exit_code, by_signal = how_it_ended(code)
        return SandboxEnd(exit_code, by_signal, is_out_of_memory and by_signal is not None)

    def signal(self, number: int) -> None:
        self._inner.signal(number)

    def kill(self) -> None:
        self._inner.kill()
        if self._cgroup is not None:
            self._cgroup.kill()

    def usage(self) -> SandboxUsage:
        return self._inner.usage()

    async def enter(self, argv: tuple[str, ...], terminal_fd: int, environment: Mapping[str, str]) -> SandboxProcess:
        return await self._inner.enter(argv, terminal_fd, environment)
