"""No sandbox: a command as any process of this user, behind the sandbox's interface. For the cloud's own tests."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping

import psutil

from cloudcrest.compute.sandbox.api import Reach, SandboxEnd, SandboxProcess, SandboxSpec, SandboxUsage
from cloudcrest.infra.guard import guarded
from cloudcrest.infra.lifeline import Lifeline
from cloudcrest.kernel.errors import Conflict, InvalidInput

_TERMINAL = (
    "import os, sys; os.setsid(); os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execvp(sys.argv[1], sys.argv[1:])"
)
"""A session leader's first terminal becomes its controlling one."""


class PlainSandbox:
    """Implements `sandbox.api.Sandbox`. What it starts ends when this process does."""

    isolation = "plain"
    has_own_view = False

    def __init__(self) -> None:
        self._lifeline = Lifeline()

    async def reach(self, *, in_image: bool) -> tuple[Reach, str]:  # noqa: ARG002
        return "node", ""

    async def fetch(self, image: str) -> None:
        """Nothing: it runs none."""

    async def start(self, spec: SandboxSpec, output_fd: int) -> SandboxProcess:
        """Starts it. Binds are not made: only the sandbox knows another view of the files."""
        return await _start(self._lifeline, spec, spec.argv, spec.environment, output_fd=output_fd)


class _Process:
    """Implements `sandbox.api.SandboxProcess` over a guard and what it started."""

    def __init__(self, lifeline: Lifeline, spec: SandboxSpec, child: asyncio.subprocess.Process) -> None:
        self._lifeline = lifeline
        self._spec = spec
        self._child = child
        self._peak_bytes = 0

    async def wait(self) -> SandboxEnd:
        code = await self._child.wait()
        self.kill()
        return SandboxEnd(exit_code=code) if code >= 0 else SandboxEnd(signal=-code)

    def signal(self, number: int) -> None:
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def usage(self) -> SandboxUsage:
        found = tree_usage(self._child.pid)
        self._peak_bytes = max(self._peak_bytes, found.memory_bytes)
        return SandboxUsage(found.cpu_seconds, found.memory_bytes, self._peak_bytes, found.processes)

    async def enter(self, argv: tuple[str, ...], terminal_fd: int, environment: Mapping[str, str]) -> SandboxProcess:
        if self._child.returncode is not None:
            raise Conflict("the command has ended")
        on_terminal = (sys.executable, "-I", "-S", "-c", _TERMINAL, *argv)
        given = {**self._spec.environment, **environment}
        return await _start(self._lifeline, self._spec, on_terminal, given, output_fd=terminal_fd, input_fd=terminal_fd)


async def _start(
    lifeline: Lifeline,
    spec: SandboxSpec,
    argv: tuple[str, ...],
    environment: Mapping[str, str],
    *,
    output_fd: int,
    input_fd: int = asyncio.subprocess.DEVNULL,
) -> _Process:
    base = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(spec.work_folder), "LANG": "C.UTF-8"}
    try:
        child = await asyncio.create_subprocess_exec(
            *guarded(argv),
            stdin=input_fd,
            stdout=output_fd,
            stderr=output_fd,
            cwd=spec.work_folder,
            env={**base, **environment, **lifeline.environment()},
            start_new_session=True,
            pass_fds=(lifeline.read_fd,),
        )
    except OSError as error:
        raise InvalidInput(f"cannot run {argv[0]}: {error.strerror}", param="command") from error
    return _Process(lifeline, spec, child)


def tree_usage(pid: int) -> SandboxUsage:
    """What a process and all below it use now. Children that were waited for are counted in their parents."""
    cpu_seconds, memory_bytes, processes = 0.0, 0, 0
    try:
        top = psutil.Process(pid)
        tree = [top, *top.children(recursive=True)]
    except psutil.Error:
        return SandboxUsage()
    for process in tree:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            cpu_seconds += times.user + times.system + times.children_user + times.children_system
            memory_bytes += process.memory_info().rss
            processes += 1
    return SandboxUsage(cpu_seconds, memory_bytes, memory_bytes, processes)
