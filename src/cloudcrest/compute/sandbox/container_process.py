"""A command in a container, and the terminals beside it."""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cloudcrest.compute.sandbox.api import SandboxEnd, SandboxProcess, SandboxSpec, SandboxUsage
from cloudcrest.compute.sandbox.cgroup import Cgroup, cgroup_of
from cloudcrest.compute.sandbox.container_guard import Guard, Told
from cloudcrest.compute.sandbox.limiting import how_it_ended
from cloudcrest.compute.sandbox.proxy import Proxy
from cloudcrest.compute.sandbox.runtime import end, name_of
from cloudcrest.kernel.errors import Conflict

_LOOK_SECONDS = 0.5
_MARK = "CLOUDCREST_TERMINAL"


class ContainerProcess:
    """Implements `sandbox.api.SandboxProcess` over a client that waits for its container.

    What it has used is in its control group, which the runtime removes soon after its end: it is read twice a second,
    and at once when the kernel says that the container's first process has ended.
    """

    def __init__(
        self,
        runtime: str,
        spec: SandboxSpec,
        child: asyncio.subprocess.Process,
        told: Told,
        *,
        guard: Guard,
        proxy: Proxy | None,
    ) -> None:
        self._runtime = runtime
        self._spec = spec
        self._child = child
        self._told = told
        self._guard = guard
        self._proxy = proxy
        self._pid = 0
        self._pid_fd: int | None = None
        self._cgroup: Cgroup | None = None
        self._last = SandboxUsage()
        self._is_out_of_memory = False

    def is_at(self, pid: int) -> None:
        """Its first process, as this node numbers it; 0: not known."""
        self._pid = pid
        if pid == 0:
            return
        self._cgroup = cgroup_of(pid)
        with contextlib.suppress(OSError, AttributeError):  # it has ended; a system without such descriptors
            self._pid_fd = os.pidfd_open(pid)
            asyncio.get_running_loop().add_reader(self._pid_fd, self._has_ended)

    async def wait(self) -> SandboxEnd:
        waiting = asyncio.ensure_future(self._child.wait())
        while not (await asyncio.wait({waiting}, timeout=_LOOK_SECONDS))[0]:
            self._look()
        code = waiting.result()
        self._look()
        self._let_go()
        self._told.forget()
        await self._guard.dismiss()
        if code != 0:  # the client's end need not be the container's: it may have been killed, or lost the runtime
            await asyncio.to_thread(end, self._runtime, self._spec.id)
        if self._proxy is not None:
            await self._proxy.close()
        exit_code, by_signal = how_it_ended(code)
        return SandboxEnd(exit_code, by_signal, self._is_out_of_memory and by_signal == signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Without waiting: what it does shows in the container's end."""
        if self._child.returncode is not None:
            return
        with contextlib.suppress(OSError):
            subprocess.Popen(
                [self._runtime, "kill", "--signal", str(int(number)), name_of(self._spec)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def usage(self) -> SandboxUsage:
        self._look()
        if self._proxy is None:
            return self._last
        passed = {"sent_bytes": self._proxy.sent_bytes, "received_bytes": self._proxy.received_bytes}
        return msgspec.structs.replace(self._last, **passed)

    async def enter(self, argv: tuple[str, ...], terminal_fd: int, environment: Mapping[str, str]) -> SandboxProcess:
        if self._child.returncode is not None:
            raise Conflict("the command has ended")
        mark = secrets.token_hex(8)
        given = {**environment, _MARK: mark}
        child = await asyncio.create_subprocess_exec(
            *(self._runtime, "exec", "--interactive", "--tty"),
            *(part for name, value in given.items() for part in ("--env", f"{name}={value}")),
            *(name_of(self._spec), *argv),
            stdin=terminal_fd,
            stdout=terminal_fd,
            stderr=terminal_fd,
            start_new_session=True,
        )
        return _Entered(child, self._pid, mark)

    def _look(self) -> None:
        if self._cgroup is None:
            return
        found = self._cgroup.usage()
        if found.cpu_seconds < self._last.cpu_seconds or not found.memory_peak_bytes:
            return  # the runtime is removing it, or has
        self._is_out_of_memory |= self._cgroup.was_out_of_memory()
        peak = max(found.memory_peak_bytes, self._last.memory_peak_bytes)
        self._last = msgspec.structs.replace(found, memory_peak_bytes=peak)

    def _has_ended(self) -> None:
        self._look()
        self._let_go()

    def _let_go(self) -> None:
        if self._pid_fd is not None:
            asyncio.get_running_loop().remove_reader(self._pid_fd)
            os.close(self._pid_fd)
            self._pid_fd = None


class _Entered:
    """A program beside the command. The runtime's client does not pass signals on to it, nor ends it when it ends
    itself: it is found by a variable of its own.
    """

    def __init__(self, child: asyncio.subprocess.Process, container_pid: int, mark: str) -> None:
        self._child = child
        self._container_pid = container_pid
        self._mark = f"{_MARK}={mark}".encode()

    async def wait(self) -> SandboxEnd:
        exit_code, by_signal = how_it_ended(await self._child.wait())
        return SandboxEnd(exit_code, by_signal)

    def signal(self, number: int) -> None:
        if self._child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if (pid := self._found()) is not None:
                os.kill(pid, number)

    def kill(self) -> None:
        """The program, and the client, which may have lost it."""
        self.signal(signal.SIGKILL)
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()

    def usage(self) -> SandboxUsage:
        return SandboxUsage()

    async def enter(self, *_: object) -> SandboxProcess:
        raise Conflict("a program beside the command has no terminals of its own")

    def _found(self) -> int | None:
        """Its process, the oldest of those with its mark; what it has started has it, too."""
        if self._container_pid == 0:
            return None
        with contextlib.suppress(OSError):
            inside = os.stat(f"/proc/{self._container_pid}/ns/pid").st_ino
            for pid in sorted(int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()):
                with contextlib.suppress(OSError):
                    if os.stat(f"/proc/{pid}/ns/pid").st_ino == inside and self._mark in _environment(pid):
                        return pid
        return None


def _environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
