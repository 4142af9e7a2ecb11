"""Commands run in a sandbox, for what they write and how they end."""

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec

from cloudcrest.compute.sandbox.api import Sandbox, SandboxEnd, SandboxProcess, SandboxSpec
from cloudcrest.compute.sandbox.cgroup import PREFIX, new_cgroup


class Held(msgspec.Struct):
    """A command in a sandbox. `output` has all it wrote, once it has ended."""

    process: SandboxProcess
    output_fd: int
    output: str = ""

    async def ended(self) -> SandboxEnd:
        """Waits for its end."""
        reading = asyncio.create_task(asyncio.to_thread(self._read))
        end = await self.process.wait()
        await reading
        return end

    async def says(self, word: str) -> None:
        """Waits until it has written a word."""
        while word not in self.output:
            chunk = await asyncio.to_thread(os.read, self.output_fd, 65_536)
            assert chunk, f"it ended without saying '{word}': {self.output}"
            self.output += chunk.decode(errors="replace")

    def _read(self) -> None:
        while chunk := os.read(self.output_fd, 65_536):
            self.output += chunk.decode(errors="replace")
        os.close(self.output_fd)


def may_hold_memory() -> bool:
    """Whether this machine lets this user make control groups."""
    made = new_cgroup(f"{PREFIX}tried-{os.getpid()}")
    if made is None:
        return False
    made.limit(cpu_milli=0, memory_bytes=1 << 30, processes=0)
    made.remove()
    return "memory" in made.holds


async def hold(
    sandbox: Sandbox, script: str, work: Path, *, name: str = "test", program: str = "bash", **limits: Any
) -> Held:
    """Starts a shell script in a sandbox, in this work folder."""
    name = f"{name}-{os.getpid()}"  # control groups are of the whole machine
    work.mkdir(exist_ok=True)  # noqa: ASYNC240 - a small folder
    read_fd, write_fd = os.pipe()
    try:
        process = await sandbox.start(SandboxSpec(name, (program, "-c", script), work, **limits), write_fd)
    finally:
        os.close(write_fd)
    return Held(process, read_fd)


async def said(sandbox: Sandbox, script: str, work: Path, **limits: Any) -> str:
    """What a script writes."""
    held = await hold(sandbox, script, work, **limits)
    await held.ended()
    return held.output
